// The budget's answer, computed in the page: a port of orchestrator/budget.py, students.py and what latency.py
// adds to them, draw for draw.
// Its answers are those of `kdsweep query --json`. No DOM here; page.js draws.
"use strict";

const kdsweep = {};

kdsweep.load = async function (base64) {
  const packed = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const whole = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = new DataView(whole.buffer).getUint32(0, true);
  const document = JSON.parse(new TextDecoder().decode(whole.subarray(4, 4 + length)));
  const binary = whole.subarray(4 + length);
  const half = binary.length / 2;
  let place = 0;
  document.arrays = document.arrays.map((shape) => {
    const step = shape[shape.length - 1], columns = shape[shape.length - 2];
    const rows = shape.length === 3 ? shape[0] : 1;
    const values = new Int16Array(rows * columns);
    for (let i = 0; i < values.length; i++) values[i] = binary[place + i] | (binary[half + place + i] << 8);
    place += values.length;
    for (const start of [2, 1])  // undo the differences, the last first
      for (let r = 0; r < rows; r++)
        for (let c = start; c < columns; c++) values[r * columns + c] += values[r * columns + c - 1];
    return { values, rows, columns, step };
  });
  document.cache = new Map();
  return document;
};

// ---- numbers, as Python and numpy write them

// Python's format(x, ".3f"): toFixed, with exact ties to even.
function fixed(x, digits) {
  const exact = x.toFixed(70).replace(/0+$/, "");
  const tie = exact.length === exact.indexOf(".") + digits + 2 && exact.endsWith("5");
  const down = exact.slice(0, -1).replace(/\.$/, "");
  return tie && Number(down.slice(-1)) % 2 === 0 ? down : x.toFixed(digits);
}

function round(x, digits) {
  return Number(fixed(x, digits));
}

// Python's format(x, "g") with so many digits; grouped: thousands with commas.
function general(x, digits = 6, grouped = false) {
  if (x === 0) return "0";
  let [mantissa, power] = x.toExponential(digits - 1).split("e");
  const significant = x.toFixed(70).replace(/[-.]/g, "").replace(/^0+|0+$/g, "");
  if (significant.length === digits + 1 && significant.endsWith("5") && "02468".includes(significant[digits - 1])) {
    mantissa = significant.slice(0, digits).replace(/^./, (x < 0 ? "-" : "") + "$&.");  // an exact tie
  }
  const exponent = Number(power), strip = (s) => (s.includes(".") ? s.replace(/\.?0+$/, "") : s);
  if (exponent < -4 || exponent >= digits) {
    return strip(mantissa) + "e" + (exponent < 0 ? "-" : "+") + String(Math.abs(exponent)).padStart(2, "0");
  }
  const [whole, rest] = strip(fixed(x, Math.max(digits - 1 - exponent, 0))).split(".");
  return (grouped ? thousands(whole) : whole) + (rest ? "." + rest : "");
}

function thousands(whole) {
  return String(whole).replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

// numpy's quantile, linear between order statistics.
function quantile(sorted, q) {
  const at = q * (sorted.length - 1), left = Math.floor(at), t = at - left;
  const a = sorted[left], b = sorted[Math.min(left + 1, sorted.length - 1)];
  return t >= 0.5 ? b - (b - a) * (1 - t) : a + (b - a) * t;
}

function mean(values) {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return sum / values.length;
}

// ---- students.py

// A student's draws of ln MAE and of MAE, median and noise, its score, by which it is ranked, and draws round
// that, to compare; kept, because sliders ask again and again.
function student(document, arm, row) {
  const key = arm * 1e7 + row;
  let found = document.cache.get(key);
  if (found) return found;
  const law = document.arms[arm], seen = law.measured.find((m) => m.row === row) ?? null;
  found = { arm, row, seen, params: document.architectures[law.arch].configurations.params[row] };
  if (law.reach) {
    const position = document.architectures[law.arch].configurations.position[row];
    found.draws = at(document.arrays[law.draws], position);
    found.median = at(document.arrays[law.median], position)[0];
    found.noise = at(document.arrays[law.noise], position)[0];
    found.score = seen ? seen.score : at(document.arrays[law.rank], position)[0];
    const shift = law.people && document.arrays[law.people.shift];
    found.compared = found.draws.map((draw, b) => {
      const own = found.score + law.spread * (draw - found.median);
      return shift ? own + shift.values[b] * shift.step : own;
    });
  } else {
    const scores = document.arrays[document.run_noise], n = scores.values.length;
    found.median = found.score = seen.score;
    found.noise = seen.noise;
    found.draws = new Float64Array(n).map((_, b) =>
      seen.score + scores.values[(b + seen.shift) % n] * scores.step * (seen.noise / Math.sqrt(seen.n_runs)));
    found.compared = found.draws;
  }
  found.mae = found.compared.map(Math.exp);
  if (document.cache.size > 20000) document.cache.clear();
  document.cache.set(key, found);
  return found;
}

// Linear interpolation along the knots, for every draw.
function at(array, position) {
  const left = Math.min(Math.max(Math.floor(position), 0), array.columns - 2), weight = position - left;
  const out = new Float64Array(array.rows);
  for (let r = 0; r < array.rows; r++) {
    const k = r * array.columns + left;
    out[r] = array.values[k] * array.step * (1 - weight) + array.values[k + 1] * array.step * weight;
  }
  return out;
}

function allowedRows(document, arch, budget) {
  const columns = document.architectures[arch].configurations;
  const rows = columns.params.map(() => true);
  for (const [name, limit] of Object.entries(budget)) {
    const [column, unit] = document.limits[name];
    columns[column].forEach((value, i) => { if (value === null || value > limit * unit) rows[i] = false; });
  }
  return rows;
}

function withinReach(document, arm) {
  const law = document.arms[arm], buildable = law.buildable && new Set(law.buildable);
  if (!law.reach) {
    const trained = new Set(law.measured.map((m) => m.row));
    return document.architectures[law.arch].configurations.params.map((_, row) => trained.has(row));
  }
  return document.architectures[law.arch].configurations.params.map((n, row) =>
    n <= law.largest * law.reach && n >= law.smallest / law.reach && (!buildable || buildable.has(row)));
}

function nearRows(document, budget) {
  const allowed = {};
  for (const arch of Object.keys(document.architectures)) allowed[arch] = allowedRows(document, arch, budget);
  const near = new Map();
  document.arms.forEach((arm, j) => {
    const reach = withinReach(document, j);
    near.set(j, allowed[arm.arch].map((ok, i) => ok && reach[i]));
  });
  return [allowed, near];
}

// Draws are linear between knots, so of all students between two knots only the outermost can win, and those
// that are trained.
function candidates(document, near) {
  const out = [];
  for (const [j, inside] of near) {
    const place = document.architectures[document.arms[j].arch].configurations.position;
    const kept = [], trained = new Set(document.arms[j].measured.map((m) => m.row));
    inside.forEach((yes, i) => { if (yes) kept.push(i); });
    kept.forEach((row, k) => {
      const here = Math.floor(place[row]);
      const first = k === 0 || Math.floor(place[kept[k - 1]]) !== here;
      const last = k === kept.length - 1 || Math.floor(place[kept[k + 1]]) !== here;
      if (first || last || trained.has(row)) out.push(student(document, j, row));
    });
  }
  return out;
}

function nothingFits(document, budget) {
  const smallest = Object.entries(document.architectures).map(([arch, data]) => {
    const sizes = Object.keys(budget).map((name) => {
      const [column, unit, what] = document.limits[name];
      const values = data.configurations[column].filter((v) => v !== null);
      return values.length ? `${general(Math.min(...values) / unit)} ${what}` : `an unknown number of ${what}`;
    });
    return `${arch} needs at least ${sizes.join(", ")}`;
  });
  return `no student within the range of the laws fits this budget: ${smallest.join("; ")} (the smallest within ` +
    `a factor of ${general(document.constants.refuse_factor)} of the measured sizes); raise the limits, or train smaller students`;
}

function reachesBeyond(document, allowed, usable) {
  let most = null;
  for (const j of usable) {
    const arm = document.arms[j];
    const params = document.architectures[arm.arch].configurations.params;
    let largest = -Infinity;
    allowed[arm.arch].forEach((yes, i) => { if (yes && params[i] > largest) largest = params[i]; });
    const limit = arm.largest * arm.reach;
    if (arm.rises || arm.verdict === "weak" || largest <= limit) return "";
    if (!most || limit > most.limit) most = { limit, arm };
  }
  const { limit, arm } = most;
  const why = arm.why ? `: ${arm.why}` : ", or train larger students";
  return `this budget admits students beyond the range of every law (the largest measured one has ` +
    `${thousands(arm.largest)} parameters; ${arm.key} may be extrapolated ${general(arm.reach)} times): ` +
    `use --max-params ${Math.trunc(limit)} or less${why}`;
}

function interval(document, s) {
  const scores = document.arrays[document.run_noise], level = document.level;
  const runs = s.draws.map((draw, b) => draw + scores.values[b] * scores.step * s.noise);
  runs.sort();
  const low = quantile(runs, (1 - level) / 2), high = quantile(runs, (1 + level) / 2);
  return {
    median: round(Math.exp(s.median), 4),
    low: round(Math.exp(Math.min(low, s.median)), 4),
    high: round(Math.exp(Math.max(high, s.median)), 4),
    level,
  };
}

function describe(document, s, pBest, bestOfDraw) {
  const arm = document.arms[s.arm], columns = document.architectures[arm.arch].configurations;
  const depth = columns.depth[s.row], width = columns.width[s.row];
  const seen = s.seen, mae = interval(document, s);
  let close = 0;
  s.mae.forEach((v, b) => { if (v <= bestOfDraw[b] + document.constants.near_bpm) close++; });
  return {
    arch: arm.arch, depth, width, init: arm.init, strategy: arm.strategy, strategy_args: arm.strategy_args,
    teacher: arm.teacher, params: columns.params[s.row], macs: columns.macs[s.row],
    weight_bytes: columns.weight_bytes[s.row], activation_bytes: columns.activation_bytes[s.row],
    trained: seen !== null, point: seen ? seen.point : null,
    measured_mae_bpm: seen ? round(seen.point_error, 4) : null,
    measured_mean_bpm: seen ? round(seen.error, 4) : null,
    n_runs: seen ? seen.n_runs : 0, n_folds: seen ? seen.n_folds : 0, mae_bpm: mae,
    intervals: { run: [mae.low, mae.high], people: people(document, s) }, p_best: round(pBest, 4),
    "p_within_0.1_bpm": round(close / s.mae.length, 4), p_feasible: 1.0,
  };
}

// Of the mean over new people like those of the sweep; null where subjects aren't known.
function people(document, s) {
  const law = document.arms[s.arm], known = law.people;
  if (!known) return null;
  const position = document.architectures[law.arch].configurations.position[s.row];
  const [low, high, worst] = [known.low, known.high, known.p90_wearer].map((array) =>
    round(Math.exp(at(document.arrays[array], position)[0]), 4));
  return { low, high, n_people: known.n_people, p90_wearer_bpm: worst };
}

function extrapolation(document, arm, params) {
  const distance = Math.max(params / arm.largest, arm.smallest / params, 1.0);
  const side = params > arm.largest ? "larger than the largest" : "smaller than the smallest";
  const warning = distance > document.constants.warn_factor
    ? `WARNING: ${fixed(distance, 1)} times ${side} measured student; train a closer size before you decide`
    : null;
  return {
    distance: round(distance, 3), smallest_measured: arm.smallest, largest_measured: arm.largest, warning,
  };
}

// ---- latency.py

// P(a student keeps a limit on latency): 0 or 1 where it was measured.
function pWithin(document, median, sure, limit) {
  const p = document.constants.sure;
  const spread = Math.log(sure / median) / Math.log(p / (1 - p)), distance = Math.log(limit / median);
  if (spread <= 0) return distance >= 0 ? 1 : 0;
  return 1 / (1 + Math.exp(Math.min(-distance / spread, 700)));
}

// What a student takes at a precision, and how each figure is known.
function cost(document, s, precision) {
  const arch = document.arms[s.arm].arch, columns = document.architectures[arch].configurations;
  const measured = document.profile.measured, name = `${arch} ${columns.depth[s.row]}x${columns.width[s.row]}`;
  const onMcu = measured.arena.includes(name), median = columns[`latency_median_ms_${precision}`][s.row];
  const out = {
    flash_bytes: columns[`flash_bytes_${precision}`][s.row],
    flash_is: onMcu ? "the .tflite file, measured" : "the weights, computed",
    memory_bytes: columns[`memory_bytes_${precision}`][s.row],
    memory_is: onMcu ? "tflite-micro's tensor arena, measured" : "the activation peak, computed",
  };
  if (median === null) return out;
  return {
    ...out,
    latency_ms: median,
    "latency_kept_with_p_0.8_ms": columns[`latency_ms_${precision}`][s.row],
    latency_is: measured.latency.includes(name) ? "measured" : "predicted by the latency law",
  };
}

function withCost(document, description, s, precision, mostMs) {
  const found = { ...description, cost: cost(document, s, precision) };
  if (mostMs !== undefined) {
    const { latency_ms: median, "latency_kept_with_p_0.8_ms": sure } = found.cost;
    found.p_feasible = round(pWithin(document, median, sure, mostMs), 4);
  }
  return found;
}

// ---- decide.py

function least(list, value) {
  return list.reduce((a, b) => (value(b) < value(a) ? b : a));
}

function smallest(document, among, first) {
  const close = among.filter((s) => s.score <= first.score + document.constants.tie);
  return close.reduce((a, b) => (b.params < a.params || (b.params === a.params && b.score < a.score) ? b : a));
}

function trainedWinner(document, all) {
  const trained = all.filter((s) => s.seen);
  return trained.length ? smallest(document, trained, least(trained, (s) => s.score)) : null;
}

function choose(document, all) {
  const first = least(all, (s) => s.score), leader = smallest(document, all, first);
  const trained = trainedWinner(document, all), close = document.constants.near_bpm;
  if (!trained || leader.seen) {
    const worse = fixed(Math.max(Math.exp(leader.score) - Math.exp(first.score), 0), 3);
    return [first, leader, leader === first ? "" : `as good as any larger one: the best would gain ${worse} BPM`];
  }
  const gap = Math.exp(trained.score) - Math.exp(leader.score);
  if (gap > close) {
    return [leader, leader,
      `the best trained student within the budget is expected to be ${fixed(gap, 2)} BPM worse than this one`];
  }
  return [leader, trained, `already trained and as good: an untrained student would gain ` +
    `${fixed(Math.max(gap, 0), 3)} BPM, less than ${general(close)}`];
}

function contenders(document, winners) {
  const wins = document.arms.map(() => 0);
  for (const s of winners) wins[s.arm]++;
  const order = wins.map((_, j) => j).sort((a, b) => wins[b] - wins[a]).slice(0, document.constants.named);
  return order.filter((j) => wins[j]).map((j) =>
    ({ arm: document.arms[j].key, p_best: round(wins[j] / winners.length, 4) }));
}

function doubt(document, leader, best, winners, bestOfDraw) {
  const arm = document.arms[leader.arm], { near_bpm, near_share, sure_best, most_regret } = document.constants;
  if (arm.verdict === "weak" && !best.seen) return `cannot decide: the law of ${arm.key} is weak (${arm.why})`;
  const over = leader.mae.map((v, b) => v - bestOfDraw[b]);
  let close = 0;
  over.forEach((v, b) => { if (v <= Math.max(near_share * bestOfDraw[b], near_bpm)) close++; });
  if (close / over.length >= sure_best && mean(over) <= most_regret * mean(leader.mae)) return "";
  const rivals = contenders(document, winners);
  if (rivals.length === 1) return `cannot decide how large a student of ${rivals[0].arm} should be`;
  return `cannot decide between ${rivals.map((r) => `${r.arm} (P(best) ${fixed(r.p_best, 2)})`).join(", ")}`;
}

function toldMeasured(document, j, m) {
  const arm = document.arms[j], columns = document.architectures[arm.arch].configurations;
  return {
    point: m.point, arm: arm.key, depth: columns.depth[m.row], width: columns.width[m.row],
    params: columns.params[m.row], error: round(m.error, 4), n_runs: m.n_runs, n_folds: m.n_folds,
  };
}

// The trained student with the lowest mean error, where no law ranks them.
function bestMeasured(document, allowed) {
  let found = null;
  document.arms.forEach((arm, j) => {
    for (const m of arm.measured) {
      if (!allowed[arm.arch][m.row]) continue;
      const params = document.architectures[arm.arch].configurations.params[m.row];
      if (!found || m.error < found.m.error || (m.error === found.m.error && params < found.params)) found = { m, j, params };
    }
  });
  return found && toldMeasured(document, found.j, found.m);
}

function order(best, other) {
  const gap = best.mae_bpm.median - other.mae_bpm.median;
  if (gap <= 0) return "";
  const why = best.trained && !other.trained
    ? "trained students go first where the evidence can't tell"
    : "students are ranked by what was measured and one power law, which chooses better";
  return `the runner-up's median is ${fixed(gap, 2)} BPM lower: ${why}`;
}

// ---- budget.py

// budget: limits by name; precision: what memory, flash and latency mean.
kdsweep.answer = function (whole, budget, precision = "fp32") {
  const document = { ...whole, limits: whole.limits[precision] }, profile = document.profile;
  const given = Object.keys(document.limits).filter((name) => name in budget);  // in query's order: ties
  budget = Object.fromEntries(given.map((name) => [name, budget[name]]));
  const out = {
    sweep: document.sweep, budget, verdict: "refuse", why: "", best: null, runner_up: null,
    extrapolation: null, binding: null, decided: false, measured: null, contenders: [], train: [], intervals: null,
    metric: document.metric, calibration: document.calibration, memory: document.memory,
    precision, device: profile.device, int8: precision === "int8" ? profile.int8 : null,
  };
  const usable = document.arms.flatMap((arm, j) => (arm.reach > 0 ? [j] : []));
  const [allowed, near] = nearRows(document, budget);
  out.measured = bestMeasured(document, allowed);
  if (!usable.length) {
    out.why = `no law may be used (${document.arms[0].key}: ${document.arms[0].why})`;
    return out;
  }
  if (![...near.values()].some((rows) => rows.some(Boolean))) return { ...out, why: nothingFits(document, budget) };
  const beyond = reachesBeyond(document, allowed, usable);
  if (beyond) return { ...out, why: beyond };
  const all = candidates(document, near), draws = all[0].draws.length;
  const bestOfDraw = new Float64Array(draws).fill(Infinity), wins = new Map(), winners = [];
  for (let b = 0; b < draws; b++) {
    let winner = all[0];
    for (const s of all) {
      if (s.compared[b] < winner.compared[b]) winner = s;
      if (s.mae[b] < bestOfDraw[b]) bestOfDraw[b] = s.mae[b];
    }
    winners.push(winner);
    wins.set(winner, (wins.get(winner) || 0) + 1);
  }
  const pBest = (s) => (wins.get(s) || 0) / draws;
  let [leader, best, note] = choose(document, all);
  const unsure = doubt(document, leader, best, winners, bestOfDraw), measured = trainedWinner(document, all);
  if (measured) out.measured = toldMeasured(document, measured.arm, measured.seen);
  if (unsure) {
    out.contenders = contenders(document, winners);
    note = unsure;
    if (measured) {
      best = leader = measured;
      note += "; until then, the answer is the best measured student";
    }
  }
  out.decided = !unsure;
  const told = (s, p) => withCost(document, describe(document, s, p, bestOfDraw), s, precision, budget.max_latency_ms);
  out.best = told(best, pBest(leader));
  out.intervals = out.best.intervals;
  const other = [...all].sort((a, b) => a.score - b.score).find((s) => s.arm !== best.arm);  // stable, as in numpy
  if (other) {
    out.runner_up = told(other, pBest(other));
    note = [note, order(out.best, out.runner_up)].filter(Boolean).join("; ");
  }
  out.extrapolation = extrapolation(document, document.arms[best.arm], out.best.params);
  out.binding = unsure ? null : binding(document, budget, near);
  out.verdict = "ok";
  out.why = [note, out.extrapolation.warning].filter(Boolean).join("; ");
  const refused = document.arms.filter((arm) => arm.verdict === "refuse");
  if (refused.length) out.left_out = refused.map((arm) => ({ arm: arm.key, why: arm.why }));
  return out;
};

function bestDraws(document, near) {
  return least(candidates(document, near), (s) => s.score).draws.map(Math.exp);
}

// The gain from raising the most costly limit by 10 %.
function binding(document, budget, near) {
  const now = bestDraws(document, near), more = document.constants.more;
  let found = null;
  for (const [name, limit] of Object.entries(budget)) {
    const wider = bestDraws(document, nearRows(document, { ...budget, [name]: limit * more })[1]);
    const gain = now.map((v, b) => v - wider[b]), average = mean(gain);
    if (!found || average > found.average) found = { name, limit, gain, average };
  }
  const sorted = found.gain.sort();
  const [low, median, high] = [0.05, 0.5, 0.95].map((q) => quantile(sorted, q));
  if (Math.abs(median) < 5e-4 && Math.abs(high) < 5e-4) {
    return { budget: null, gain_bpm: null, text: "no limit is binding: raising any by 10 % gains nothing" };
  }
  return {
    budget: found.name,
    gain_bpm: { median: round(median, 4), low: round(low, 4), high: round(high, 4) },
    text: `${found.name} is binding: ${general(found.limit * (more - 1), 4, true)} more ` +
      `${document.limits[found.name][2]} gain ${fixed(median, 3)} BPM [${fixed(low, 3)}, ${fixed(high, 3)}]`,
  };
}
