"use strict";
// The choice again for another deadline, price or failure rate; the formulas are those of scaleexp/simulate/failures.py.
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const SURE = 1.2816; // of a normal, nine in ten lie below
  const END = 1000;

  // Trying for `length` seconds without a failure at this rate, with a pause after each: [mean, variance, failures].
  const stretch = (length, rate, pause, pauseVariance) => {
    const x = rate * length;
    const failures = Math.expm1(x);
    if (!failures) return [length, 0, 0];
    const lost = x > 1e-6 ? (1 - x / failures) / rate : length / 2;
    const spread = x > 1e-3 ? (2 * lost) / rate - length ** 2 / failures - lost ** 2 : length ** 2 / 12;
    const each = lost + pause;
    const variance = failures * (spread + pauseVariance) + failures * (1 + failures) * each ** 2;
    return [length + failures * each, variance, failures];
  };

  const completion = (work, mtbf) => {
    if (mtbf === Infinity) return { mean: work, sd: 0, undisturbed: work, failures: 0, every: Infinity };
    const { checkpoint_s: C, restart_s: R } = data;
    const ratio = C / (2 * mtbf);
    const daly = Math.sqrt(2 * C * mtbf) * (1 + Math.sqrt(ratio) / 3 + ratio / 9) - C;
    const wanted = Math.max(ratio < 1 ? daly : mtbf, 1e-3 * mtbf);
    const segments = Math.max(1, Math.ceil(work / wanted));
    const [pause, pauseVariance, again] = stretch(R, 1 / mtbf, 0, 0);
    const saved = stretch(work / segments + C, 1 / mtbf, pause, pauseVariance);
    const last = stretch(work / segments, 1 / mtbf, pause, pauseVariance);
    const [mean, variance, failures] = last.map((own, i) => own + (segments > 1 ? (segments - 1) * saved[i] : 0));
    const undisturbed = work + (segments - 1) * C;
    return { mean, sd: Math.sqrt(variance), undisturbed, failures: failures * (1 + again), every: segments > 1 ? work / segments : Infinity };
  };

  const at = (state) => {
    const rows = data.rows.map((row) => {
      const [work, low, high] = row.work_s;
      const mtbf = state.mtbf / row.nodes;
      const run = completion(work, mtbf);
      const ends = [low, high].map((end) => completion(end, mtbf).mean);
      const sigma = low > 0 && high > low ? Math.log(high / low) / (2 * data.z) : 0;
      const usual = completion(work * Math.exp(SURE * sigma), mtbf).mean - run.mean;
      // Beyond what it takes without failures a run is lognormal, as in scaleexp/simulate/frontier.py.
      const lost = run.mean - run.undisturbed;
      const width = lost > 0 ? Math.sqrt(Math.log1p((run.sd / lost) ** 2)) : 0;
      const unlucky = lost * (Math.exp(width * SURE - width ** 2 / 2) - 1);
      const late = run.mean + (usual > 0 ? Math.hypot(usual, Math.max(unlucky, 0)) : unlucky);
      const hourly = (row.workers / 3600) * (state.price ?? 1);
      return { ...row, ...run, ends, late, dear: hourly * late, cost: hourly * run.mean, costs: ends.map((end) => hourly * end) };
    });
    const lasting = rows.filter((row) => Number.isFinite(row.mean) && row.mean < 1e3 * row.work_s[0] + 1e9);
    for (const row of lasting) {
      row.front = !lasting.some(
        (other) => other.mean <= row.mean && other.cost <= row.cost && (other.mean < row.mean || other.cost < row.cost),
      );
    }
    return lasting;
  };

  const least = (rows, rank) => rows.reduce((best, row) => (best && rank(best) <= rank(row) ? best : row), null);
  const choose = (rows, { deadline, budget }) => {
    const met = rows.filter((row) => row.late <= deadline && row.dear <= budget);
    const product = (row) => row.mean * row.cost;
    if (deadline === Infinity && budget === Infinity) return { row: least(rows, product), kind: "least" };
    const rank = budget === Infinity ? (row) => row.cost : deadline === Infinity ? (row) => row.mean : product;
    if (met.length) return { row: least(met, rank), kind: "met" };
    return { row: least(rows, (row) => Math.max(row.late / deadline, row.dear / budget)), kind: "missed" };
  };

  // Numbers as the tables of scaleexp write them.
  const digits = (x) => (x >= 1000 ? Math.round(Number(x.toPrecision(3))).toLocaleString("en") : String(Number(x.toPrecision(3))));
  const time = (s) => {
    if (!Number.isFinite(s)) return "never";
    if (s < 0.09995) return `${digits(1000 * s)} ms`;
    if (s >= 3600 && s % 3600 === 0) return `${(s / 3600).toLocaleString("en")} h`;
    if (s < 59.95) return `${digits(s)} s`;
    if (s < 3599.5) return `${Math.floor(Math.round(s) / 60)}m${String(Math.round(s) % 60).padStart(2, "0")}s`;
    const minutes = Math.round(s / 60);
    if (minutes < 6000) return `${Math.floor(minutes / 60)}h${String(minutes % 60).padStart(2, "0")}m`;
    return `${digits(s / 3600)} h`;
  };
  const money = (x, state) => {
    if (state.price === null) return `${digits(x)} ${data.worker} hours`;
    if (x > 0 && x < 0.01) return "<$0.01";
    return x >= 99.995 ? `$${digits(x)}` : `$${x.toFixed(2)}`;
  };
  const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

  // Sliders are logarithmic; their right end is no limit at all.
  const slider = (value, low, high) => (value === Infinity ? END : Math.round((END - 10) * (Math.log(value / low) / Math.log(high / low))));
  const value = (position, low, high) => (position >= END - 5 ? Infinity : low * (high / low) ** (position / (END - 10)));
  const works = data.rows.map((row) => row.work_s[0]);
  const range = { deadline: [Math.min(...works) / 3, Math.max(...works) * 3], mtbf: [3600, 3600 * 20000] };
  const clamp = (x, [low, high]) => (x === Infinity ? x : Math.min(Math.max(x, low), high));
  // Until a slider is moved its value is the one asked for, not the nearest that the slider has.
  const exact = { deadline: data.deadline_s ?? Infinity, mtbf: data.node_mtbf_s ?? Infinity };
  const read = () => {
    const typed = (id) => {
      const number = Number.parseFloat(byId(id).value);
      return Number.isFinite(number) && number > 0 ? number : null;
    };
    const price = typed("price");
    return { ...exact, price, budget: price === null ? Infinity : typed("budget") ?? Infinity };
  };

  const SVG = "http://www.w3.org/2000/svg";
  const chart = byId("chart");
  const draw = (name, attributes, text) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, given] of Object.entries(attributes)) element.setAttribute(key, given);
    if (text !== undefined) element.textContent = text;
    chart.append(element);
  };
  const ticks = (low, high, width) => {
    const found = [];
    for (let d = Math.floor(Math.log10(low)); d <= Math.ceil(Math.log10(high)); d += 1) {
      for (const lead of [1, 2, 5]) if (lead * 10 ** d >= low && lead * 10 ** d <= high) found.push(lead * 10 ** d);
    }
    return found.length > (width < 500 ? 5 : 9) ? found.filter((t) => Math.abs(Math.log10(t) - Math.round(Math.log10(t))) < 1e-9) : found;
  };
  const units = [["seconds", 1, 120], ["minutes", 60, 7200], ["hours", 3600, 1440000], ["days", 86400, Infinity]];
  const plot = (rows, chosen, state) => {
    chart.replaceChildren(chart.firstElementChild);
    // Drawn as wide as it is shown, so that letters keep their size on a phone.
    const width = Math.max(300, Math.min(736, Math.round(chart.getBoundingClientRect().width) || 720));
    chart.setAttribute("viewBox", `0 0 ${width} 460`);
    const box = { left: 92, right: width - 14, top: 14, bottom: 404 };
    const [unit, seconds] = units.find(([, , most]) => Math.max(...rows.map((row) => row.mean)) <= most);
    const limits = (values) => {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const factor = Math.max((high / low) ** 0.06, 1.12);
      return [low / factor, high * factor];
    };
    const xs = limits(rows.flatMap((row) => [row.mean, ...row.ends]).map((s) => s / seconds));
    const ys = limits(rows.flatMap((row) => [row.cost, ...row.costs]));
    const scale = (v, [low, high], from, to) => from + ((to - from) * Math.log(v / low)) / Math.log(high / low);
    const x = (s) => scale(s / seconds, xs, box.left, box.right);
    const y = (c) => scale(c, ys, box.bottom, box.top);
    for (const t of ticks(...xs, width)) {
      const px = scale(t, xs, box.left, box.right);
      draw("line", { class: "grid", x1: px, x2: px, y1: box.top, y2: box.bottom });
      draw("text", { x: px, y: box.bottom + 20, "text-anchor": "middle" }, digits(t));
    }
    for (const t of ticks(...ys, 500)) {
      draw("line", { class: "grid", x1: box.left, x2: box.right, y1: y(t), y2: y(t) });
      draw("text", { x: box.left - 8, y: y(t) + 4, "text-anchor": "end" }, (state.price === null ? "" : "$") + digits(t));
    }
    draw("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom });
    draw("line", { class: "axis", x1: box.left, x2: box.left, y1: box.top, y2: box.bottom });
    draw("text", { x: (box.left + box.right) / 2, y: box.bottom + 44, "text-anchor": "middle" }, `time to target [${unit}]`);
    const said = state.price === null ? `cost [${data.worker} hours]` : "cost [US dollars]";
    draw("text", { transform: `translate(14 ${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, said);
    for (const row of rows) {
      const [x1, x2, y1, y2] = [...row.ends.map(x), ...row.costs.map(y)];
      draw("line", { class: "span", x1, x2, y1, y2 });
    }
    const front = rows.filter((row) => row.front).sort((a, b) => a.mean - b.mean);
    draw("polyline", { class: "front", points: front.map((row) => `${x(row.mean)},${y(row.cost)}`).join(" ") });
    if (state.deadline / seconds > xs[0] && state.deadline / seconds < xs[1]) {
      draw("line", { class: "limit", x1: x(state.deadline), x2: x(state.deadline), y1: box.top, y2: box.bottom });
    }
    if (state.budget > ys[0] && state.budget < ys[1]) {
      draw("line", { class: "limit", x1: box.left, x2: box.right, y1: y(state.budget), y2: y(state.budget) });
    }
    for (const row of rows) {
      draw("circle", { class: row.front ? "point" : "beaten", cx: x(row.mean), cy: y(row.cost), r: 5 });
    }
    draw("circle", { class: "chosen", cx: x(chosen.mean), cy: y(chosen.cost), r: 11 });
    // A label that would lie on another is left out; the chosen one comes first.
    const placed = [];
    for (const row of [chosen, ...rows.filter((other) => other !== chosen)]) {
      const [px, py] = [x(row.mean), y(row.cost)];
      if (placed.some(([ox, oy]) => Math.abs(px - ox) < 38 && Math.abs(py - oy) < 17)) continue;
      placed.push([px, py]);
      const inner = px > box.right - 70;
      draw("text", { class: "halo", x: px + (inner ? -14 : 14), y: py - 8, "text-anchor": inner ? "end" : "start" }, row.workers.toLocaleString("en"));
    }
  };

  const list = (rows, chosen, state) => {
    const made = rows.map((row) => {
      const tr = document.createElement("tr");
      if (row === chosen) tr.className = "chosen-row";
      const each = row.worker_batch.toLocaleString("en");
      const failures = row.failures ? digits(row.failures) : "0";
      const every = Number.isFinite(row.every) ? time(row.every) : "–";
      const cells = [row.workers.toLocaleString("en"), time(row.mean), money(row.cost, state), row.batch_size.toLocaleString("en"), each, digits(row.steps), failures, every];
      cells.forEach((text, i) => {
        const cell = document.createElement(i ? "td" : "th");
        if (!i) cell.scope = "row";
        cell.textContent = text;
        tr.append(cell);
      });
      return tr;
    });
    byId("rows").tBodies[0].replaceChildren(...made);
  };

  const tell = ({ row, kind }, state) => {
    const ends = row.ends.map(time);
    const spread = ends[0] === ends[1] ? "" : ` (${ends[0]} to ${ends[1]})`;
    const what = `${count(row.workers, data.worker)} at batch ${row.batch_size.toLocaleString("en")}: ${time(row.mean)}${spread}, ${money(row.cost, state)}`;
    const limits = [state.deadline === Infinity ? "" : time(state.deadline), state.budget === Infinity ? "" : money(state.budget, state)];
    const within = limits.filter((limit) => limit).join(" and ");
    const best = state.budget === Infinity ? "Cheapest" : state.deadline === Infinity ? "Fastest" : "Best";
    const words = {
      least: ["Least time x cost", `${what}.`],
      met: [`Done within ${within}`, `${best} within ${within}: ${what}.`],
      missed: [`Nothing is done within ${within}`, `Not in 9 of 10 runs; the nearest: ${what}.`],
    };
    const answer = byId("answer");
    answer.className = `answer ${kind === "missed" ? "misfit" : "ok"}`;
    [byId("kind").textContent, byId("sentence").textContent] = words[kind];
  };

  const update = () => {
    const state = read();
    byId("deadline-said").textContent = state.deadline === Infinity ? "none" : time(state.deadline);
    byId("mtbf-said").textContent = state.mtbf === Infinity ? "… never" : time(state.mtbf);
    const rows = at(state);
    if (!rows.length) {
      byId("answer").className = "answer misfit";
      byId("kind").textContent = "Nothing ends";
      byId("sentence").textContent = "Machines fail more often than they can save a checkpoint and start again.";
      chart.replaceChildren(chart.firstElementChild);
      byId("rows").tBodies[0].replaceChildren();
      return;
    }
    const choice = choose(rows, state);
    tell(choice, state);
    plot(rows, choice.row, state);
    list(rows, choice.row, state);
  };

  for (const id of ["deadline", "mtbf"]) {
    byId(id).value = slider(clamp(exact[id], range[id]), ...range[id]);
    byId(id).addEventListener("input", () => {
      exact[id] = value(Number(byId(id).value), ...range[id]);
      update();
    });
  }
  byId("price").value = data.price ?? "";
  byId("budget").value = data.budget_usd ?? "";
  for (const id of ["price", "budget"]) byId(id).addEventListener("input", update);
  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("resize", update);
  update();
}
