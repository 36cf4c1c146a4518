# %% [markdown]
# # A first sweep, cell by cell
#
# Trains the quickstart on synthetic wrists (minutes on 2 cores; nothing that is trained is trained again),
# asks it which student to ship, and tries that student on wrists it has never seen. Open it as a notebook
# (VS Code, Jupytext), or run it from the project's directory: `python docs/first_sweep.py`.

# %%
import torch

from kd.signals.synthetic import Synthetic, recordings
from orchestrator.api import run

# %% [markdown]
# ## Train
# Interrupt the cell whenever you like; run it anew, and it goes on.

# %%
sweep = run("search_spaces/quickstart.yaml", dashboard=False)
print(sweep.folder, sweep.last_run.done, "of", sweep.last_run.total, "points done")

# %% [markdown]
# ## Look
# One row a point, as a pandas DataFrame; errors by subject are a frame of their own.

# %%
results = sweep.results()
students = results[results["role"] == "student"]
print(students.groupby(["arch", "strategy"])["mae_bpm"].agg(["count", "min", "median"]).round(2))

# %%
by_subject = sweep.results(by="subject")
print(by_subject.groupby("subject")["mae_bpm"].mean().sort_values().round(2).tail(3))

# %%
best = students.sort_values("mae_bpm").iloc[0]
print(sweep.history(best["point"])[["epoch", "train_loss", "val_mae_bpm"]].tail(3))

# %% [markdown]
# ## Ask
# Laws are fitted to the errors. A query answers for untrained students, too, or refuses and says why.

# %%
laws = sweep.fit()
answer = sweep.query(max_params=20_000)
print(answer)  # in a notebook, `answer` alone shows a table

# %%
if answer.verdict == "ok":
    print(
        sweep.suggest(gpu_hours=0.02, max_params=20_000)
    )  # `run(suggestion.file, out=sweep.folder)` trains it

# %% [markdown]
# ## Use
# The trained network and its preprocessing, on wrists it has never seen.

# %%
model, prepare = sweep.model(best["point"])
windows = prepare(recordings(Synthetic(subjects=3, minutes=2, seed=1234)))
with torch.inference_mode():
    bpm = prepare.decode(model(torch.from_numpy(windows.x))[0])
print(
    f"{best['arch']} {best['depth']}x{best['width']}: {abs(bpm - windows.bpm).mean():.2f} BPM on new wrists"
)

# %%
print(sweep.report())
