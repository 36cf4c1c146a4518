// What moves in the page: the budget explorer, tables that sort. All text goes in as text, never as markup.

function element(name, css, words) {
  const node = document.createElement(name);
  if (css) node.className = css;
  if (words !== undefined) node.textContent = words;
  return node;
}

function drawn(name, attributes, words) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (words !== undefined) node.textContent = words;
  return node;
}

// ---- tables

function sortable(table) {
  table.querySelectorAll("th").forEach((th, column) => {
    const button = element("button", "", th.textContent);
    button.type = "button";
    th.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = th.getAttribute("aria-sort") !== "ascending", body = table.tBodies[0];
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", up ? "ascending" : "descending");
      const numeric = th.classList.contains("n");
      const value = (row) => {
        const cell = row.cells[column], given = cell.dataset.v;
        if (!numeric) return given ?? cell.textContent;
        return given === undefined ? NaN : Number(given);
      };
      const order = (a, b) => (numeric ? a - b : a.localeCompare(b, "en", { numeric: true }));
      const rows = [...body.rows].map((row) => [value(row), row]);
      rows.sort(([a], [b]) => {
        const gaps = Number(numeric && Number.isNaN(a)) - Number(numeric && Number.isNaN(b));  // gaps go last
        return gaps || (numeric && Number.isNaN(a) ? 0 : (up ? 1 : -1) * order(a, b));
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}

// ---- the explorer

const COLOURS = { scratch: "c-scratch", hard: "c-hard", soft: "c-soft", dkd: "c-dkd", feature: "c-feature" };

function short(x) {
  const [size, unit] = x >= 1e9 ? [1e9, "G"] : x >= 1e6 ? [1e6, "M"] : x >= 1e3 ? [1e3, "k"] : [1, ""];
  return general(x / size, 3) + unit;
}

// A student in words; its teacher only when there are several.
function named(laws, s) {
  const several = Object.keys(laws.teachers).length > 1 && s.teacher;
  const teacher = several ? ` from ${laws.teachers[s.teacher] ?? s.teacher}` : "";
  const init = s.init === "random" ? "" : `, ${s.init}`;
  return `${s.arch} ${s.depth}×${s.width}${init}, ${label(laws, s)}${teacher}`;
}

// The strategy, with the arguments that differ from its defaults.
function label(laws, s) {
  const args = JSON.stringify(s.strategy_args);
  return laws.arms.find((a) => a.strategy === s.strategy && JSON.stringify(a.strategy_args) === args).label;
}

function share(p) {
  return p > 0.995 ? "> 99 %" : p < 0.005 ? "< 1 %" : `${Math.round(100 * p)} %`;
}

// Both intervals on one scale, so that eyes compare them.
function intervals(laws, students, room) {
  const width = Math.min(Math.max(room, 280), 600), left = 8, right = width - 8;
  const low = Math.min(...students.map((s) => s.mae_bpm.low)), high = Math.max(...students.map((s) => s.mae_bpm.high));
  const margin = 0.08 * (high - low) + 1e-6;
  const x = (v) => left + (v - low + margin) / (high - low + 2 * margin) * (right - left);
  const row = 68, height = row * students.length + 26;
  const said = students.map((s) => `${named(laws, s)} ${s.mae_bpm.median.toFixed(2)} BPM, ` +
    `${s.mae_bpm.low.toFixed(2)} to ${s.mae_bpm.high.toFixed(2)}`).join("; ");
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said });
  const step = niceStep((high - low + 2 * margin) / 5);
  for (let v = Math.ceil((low - margin) / step) * step; v <= high + margin; v += step) {
    svg.append(drawn("path", { class: "grid", d: `M${x(v)} 0V${height - 20}` }));
    svg.append(drawn("text", { class: "t-tick", x: x(v), y: height - 6, "text-anchor": "middle" }, general(v, 4)));
  }
  students.forEach((s, i) => {
    const y = row * i + 34, css = COLOURS[s.strategy] ?? "c-other", m = s.mae_bpm;
    const words = `${i === 0 ? "best" : "runner-up"}: ${named(laws, s)}`;
    svg.append(drawn("text", { class: "t-halo" + (i ? "" : " t-strong"), x: left, y: y - 16 }, words));
    svg.append(drawn("text", { class: "t-note t-halo", x: left, y: y + 20 },
      `${m.median.toFixed(2)} [${m.low.toFixed(2)}, ${m.high.toFixed(2)}] BPM`));
    svg.append(drawn("rect", {
      class: `bar ${css}`, x: x(m.low), y: y - 5, width: Math.max(x(m.high) - x(m.low), 1), height: 10, rx: 5,
      "fill-opacity": 0.3,
    }));
    svg.append(drawn("circle", { class: `dot ${css}`, cx: x(m.median), cy: y, r: 6 }));
  });
  return svg;
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough);
}

function show(laws, answer, place) {
  if (answer.verdict === "refuse") {
    place.replaceChildren(element("p", "refused", `Refused: ${answer.why}.`));
    return;
  }
  const best = answer.best, mae = best.mae_bpm, cost = best.cost, box = element("div", "student");
  const timed = "latency_ms" in cost, limited = "max_latency_ms" in answer.budget;
  box.append(element("h3", "", named(laws, best)));
  const big = element("p", "mae", `${mae.median.toFixed(2)} BPM `);
  const people = best.intervals.people, level = `${Math.round(100 * mae.level)} %`;
  const run = `${mae.low.toFixed(2)} to ${mae.high.toFixed(2)} for ${level} of new runs on these people`;
  big.append(element("small", "", people
    ? `${people.low.toFixed(2)} to ${people.high.toFixed(2)} for ${level} of new people like these (${people.n_people} wearers)` : run));
  box.append(big);
  if (people) box.append(element("p", "why", `1 wearer in 10 has more than ${people.p90_wearer_bpm.toFixed(1)} BPM. ${run}.`));
  box.append(list([
    [short(best.params), "parameters"], [`${general(cost.memory_bytes / 1e3, 3)} kB`, "memory"],
    [`${general(cost.flash_bytes / 1e3, 3)} kB`, "flash"], [short(best.macs), "MACs"],
    ...(timed ? [[`${general(cost.latency_ms, 3)} ms`, `on ${answer.device}`]] : []),
  ]));
  box.append(list([
    [share(best.p_best), "P(best)"], [share(best["p_within_0.1_bpm"]), "P(within 0.1 BPM of the best)"],
    ...(limited ? [[share(best.p_feasible), "P(meets the latency limit)"]] : []),
    best.trained ? [`trained: ${best.measured_mae_bpm.toFixed(2)} BPM`, `measured, point ${best.point}`] : ["not trained yet", ""],
  ]));
  const students = [best, ...(answer.runner_up ? [answer.runner_up] : [])];
  box.append(intervals(laws, students, place.clientWidth));
  if (answer.runner_up) {
    box.append(element("p", "why", `Runner-up: ${named(laws, answer.runner_up)}, P(best) ${share(answer.runner_up.p_best)}.`));
  }
  const warning = answer.extrapolation.warning ?? "";
  const note = answer.why.slice(0, answer.why.length - warning.length).replace(/; $/, "");
  for (const words of [bound(answer.binding), note, int8(answer), costs(cost)].filter(Boolean)) box.append(element("p", "why", sentence(words)));
  if (warning) box.append(element("p", "why warn", sentence(warning)));
  if (answer.left_out) {
    const more = element("details", "why");
    more.append(element("summary", "", `${answer.left_out.length} laws are not used, or not beyond their data`));
    for (const arm of answer.left_out) more.append(element("p", "note", `${arm.arm}: ${arm.why}`));
    box.append(more);
  }
  place.replaceChildren(box);
}

function bound(binding) {
  if (!binding.budget) return "No limit is binding: raising any by 10 % gains nothing";
  const { median, low, high } = binding.gain_bpm, what = document.querySelector(`[data-name=${binding.budget}] .check`);
  return `The limit on ${what.firstElementChild.nextSibling.textContent.trim().toLowerCase()} is binding: 10 % more gains ` +
    `${median.toFixed(3)} BPM [${low.toFixed(3)}, ${high.toFixed(3)}]`;
}

// How each figure is known.
function costs(cost) {
  const latency = "latency_is" in cost ? `; latency: ${cost.latency_is}` : "";
  return `Flash: ${cost.flash_is}; memory: ${cost.memory_is}${latency}`;
}

// The laws are fitted to errors in float32.
function int8(answer) {
  if (answer.precision !== "int8") return "";
  const signed = (v) => (v < 0 ? "−" : "+") + Math.abs(v).toFixed(3), change = answer.int8;
  return "Errors are for float32; " + (change
    ? `int8 changed them by ${signed(change.mae_change_mean_bpm)} BPM on average, ` +
      `${signed(change.mae_change_most_bpm)} at most, on ${change.points} students`
    : "the effect of int8 was not measured in this sweep");
}

function sentence(words) {
  return words.charAt(0).toUpperCase() + words.slice(1) + ".";
}

function list(pairs) {
  const out = element("ul", "sizes");
  for (const [value, what] of pairs) {
    const item = element("li");
    item.append(element("b", "", value), ` ${what}`);
    out.append(item);
  }
  return out;
}

function explore(laws) {
  const rows = [...document.querySelectorAll(".limit")].map((node) => ({
    node, name: node.dataset.name, low: Number(node.dataset.low), high: Number(node.dataset.high),
    check: node.querySelector("[type=checkbox]"), typed: node.querySelector("[type=number]"),
    slider: node.querySelector("[type=range]"),
  }));
  const toSlider = (r, v) => 1000 * Math.log(v / r.low) / Math.log(r.high / r.low);
  const fromSlider = (r) => Number((r.low * (r.high / r.low) ** (r.slider.value / 1000)).toPrecision(3));
  const precisions = [...document.querySelectorAll("[name=precision]")];
  const place = document.getElementById("answer"), command = document.getElementById("command");
  const update = () => {
    const budget = {}, precision = precisions.find((radio) => radio.checked).value;
    for (const r of rows) {
      const value = Number(r.typed.value);
      r.node.classList.toggle("on", r.check.checked);
      if (r.check.checked && value > 0) budget[r.name] = value;
    }
    const options = Object.entries(budget).map(([name, v]) => ` --${name.replaceAll("_", "-")} ${v}`).join("");
    const { devices, device } = laws.profile;
    command.textContent = `kdsweep query ${laws.sweep}${options}` + (precision === "fp32" ? "" : ` --precision ${precision}`) +
      (device && devices.length > 1 ? ` --device ${device}` : "");
    if (!options) {
      kdsweep.last = null;
      place.replaceChildren(element("p", "refused", "Set at least one limit."));
      return;
    }
    kdsweep.last = kdsweep.answer(laws, budget, precision);
    show(laws, kdsweep.last, place);
  };
  for (const r of rows) {
    r.typed.value = r.node.dataset.start;
    r.slider.value = toSlider(r, Number(r.typed.value));
    r.slider.addEventListener("input", () => {
      r.check.checked = true;
      r.typed.value = fromSlider(r);
      update();
    });
    r.typed.addEventListener("input", () => {
      r.check.checked = r.typed.value !== "";
      if (Number(r.typed.value) > 0) r.slider.value = toSlider(r, Number(r.typed.value));
      update();
    });
    r.check.addEventListener("change", update);
  }
  for (const radio of precisions) radio.addEventListener("change", update);
  document.getElementById("budget").addEventListener("submit", (event) => event.preventDefault());
  let width = place.clientWidth;
  addEventListener("resize", () => {
    if (place.clientWidth !== width) { width = place.clientWidth; update(); }
  });
  update();
}

// ---- the run under the pointer

function tips(laws) {
  const tip = element("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);
  for (const svg of document.querySelectorAll("svg[data-arms]")) {
    const scale = (axis) => {
      const [low, high, start, end] = svg.dataset[axis].split(" ").map(Number);
      return (v) => start + Math.log(v / low) / Math.log(high / low) * (end - start);
    };
    const x = scale("x"), y = scale("y");
    const runs = svg.dataset.arms.split(" ").flatMap((k) => laws.arms[k].runs);
    svg.addEventListener("pointermove", (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      let near = null, least = 14;
      for (const r of runs) {
        const distance = Math.hypot(x(r.params) - at.x, y(r.mae_bpm) - at.y);
        if (distance < least) [near, least] = [r, distance];
      }
      tip.hidden = !near;
      if (!near) return;
      tip.textContent = `${near.depth}×${near.width}, seed ${near.seed}: ${near.mae_bpm.toFixed(2)} BPM, ` +
        `${thousands(near.params)} parameters, point ${near.id}`;
      tip.style.left = `${Math.max(8, Math.min(event.pageX + 12, document.documentElement.clientWidth - 290))}px`;
      tip.style.top = `${event.pageY + 14}px`;
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  }
}

document.querySelectorAll("table.sortable").forEach(sortable);
kdsweep.ready = kdsweep.load(document.getElementById("data").textContent).then((laws) => {
  kdsweep.laws = laws;
  explore(laws);
  tips(laws);
}, () => {
  const words = "This browser is too old for the explorer (it lacks DecompressionStream): use kdsweep query.";
  document.getElementById("answer").replaceChildren(element("p", "refused", words));
});
globalThis.kdsweep = kdsweep;
