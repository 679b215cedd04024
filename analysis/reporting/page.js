// The linked figures of the page: a run that is hovered, pinned or brushed in one shows in all.
const data = JSON.parse(document.getElementById('data').textContent);
const runs = data.runs, finished = runs.id.map((_, k) => k).filter(k => runs.status[k] === 'ok');
const find = id => document.getElementById(id);
const known = values => values.filter(value => value !== null && Number.isFinite(value));
const lowest = values => values.reduce((a, b) => Math.min(a, b), Infinity);
const highest = values => values.reduce((a, b) => Math.max(a, b), -Infinity);
const dark = window.matchMedia('(prefers-color-scheme: dark)');
const LABELS = {
  C: 'Compute C [FLOPs]', D: 'Training tokens D', S: 'Steps S', N: 'Parameters N',
};
const LAWS = ['accent', 'law-2', 'law-3', 'law-4', 'law-5', 'law-6'];
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3], [1, 3], [4, 4]];

// ---------------------------------------------------------------- colours of sizes
const sizes = known(finished.map(k => runs.values.N[k]));
const [least, largest] = [lowest(sizes), highest(sizes)];
function stops() { return dark.matches ? data.colours.dark : data.colours.light; }
function ofSize(N) {
  const all = stops(), share = Math.log(N / least) / (Math.log(largest / least) || 1);
  return all[Math.round(Math.min(Math.max(share, 0), 1) * (all.length - 1))];
}
let colours = [];

// ---------------------------------------------------------------- what is chosen
const plots = [];
const state = {
  hovered: -1, pinned: -1, brushed: null, selected: null,
  visible(run) {
    return run < 0 || (!this.brushed || this.brushed.has(run))
      && (!this.selected || this.selected[run]);
  },
  colour(run) { return run < 0 ? colour('muted') : colours[run]; },
  hover(run) {
    if (run === this.hovered) return;
    this.hovered = run;
    this.tell();
  },
  pin(run) {
    this.pinned = run === this.pinned ? -1 : run;
    this.tell();
  },
  brush(chosen) {
    chosen.delete(-1);
    this.brushed = chosen.size ? chosen : null;
    table.first = 0;
    this.redraw();
  },
  select(chosen) {
    this.selected = chosen;
    this.redraw();
  },
  clear() {
    Object.assign(this, {pinned: -1, hovered: -1, brushed: null});
    this.redraw();
    this.tell();
  },
  redraw() {
    for (const plot of plots) plot.draw();
    table.draw();
  },
  tell() {
    for (const plot of plots) plot.overlay();
    table.mark();
    describe(this.hovered >= 0 ? this.hovered : this.pinned);
    find('runs-clear').hidden = !this.brushed && this.pinned < 0;
  },
};

// ---------------------------------------------------------------- learning curves
const curves = data.curves, unpacked = {};
// The logarithms of a coordinate of all curves.
function along(x) {
  if (unpacked[x]) return unpacked[x];
  const {low, high, data: packed} = curves.axes[x], text = atob(packed), slope = (high - low) / 65535;
  const logs = unpacked[x] = new Float64Array(text.length / 2);
  for (let k = 0; k < logs.length; k++)
    logs[k] = low + slope * (text.charCodeAt(2 * k) + 256 * text.charCodeAt(2 * k + 1));
  return logs;
}
function curve(run, x) {
  const found = [];
  if (!curves || !curves.axes[x]) return found;
  const xs = along(x), ys = along('L');
  for (let k = curves.starts[run]; k < curves.starts[run + 1]; k++) found.push([xs[k], ys[k]]);
  return found;
}
function trace(plot, pen, run, x) {
  pen.beginPath();
  for (const [logX, logY] of curve(run, x)) pen.lineTo(plot.X.ofScaled(logX), plot.Y.ofScaled(logY));
  pen.stroke();
}
// The runs whose curves are drawn: of many, some that are evenly spaced by size and tokens.
function traced() {
  const seen = finished.filter(run => state.visible(run)), every = Math.max(1, seen.length / hero.lines);
  return seen.filter((_, k) => Math.floor(k / every) !== Math.floor((k - 1) / every));
}

// ---------------------------------------------------------------- the run that is chosen
function describe(run) {
  const text = find('run');
  find('chosen').hidden = run < 0;
  if (run < 0) return;
  const parts = [...runs.columns, ...runs.config].filter(
    name => name !== 'tag' && runs.values[name][run] !== null
  ).map(name => `${name} = ${shown(runs.values[name][run], name)}`);
  const tag = runs.values.tag && runs.values.tag[run];
  const ended = runs.status[run] === 'ok' ? []
    : [runs.status[run] + (runs.error[run] ? `: ${runs.error[run]}` : '')];
  text.textContent = [runs.id[run] + (tag ? `  ${tag}` : ''), ...ended, parts.join('   ')].join('\n');
  const canvas = find('chosen-curve'), points = curve(run, 'D');
  canvas.hidden = points.length < 2;
  if (canvas.hidden) return;
  const ratio = Math.min(window.devicePixelRatio || 1, 2), pen = canvas.getContext('2d');
  [canvas.width, canvas.height] = [140 * ratio, 56 * ratio];
  const [xs, ys] = [0, 1].map(k => points.map(point => point[k]));
  const place = (value, all) => (value - lowest(all)) / (highest(all) - lowest(all) || 1);
  pen.strokeStyle = state.colour(run);
  pen.lineWidth = 2 * ratio;
  pen.beginPath();
  xs.forEach((x, k) => pen.lineTo((4 + 132 * place(x, xs)) * ratio, (50 - 44 * place(ys[k], ys)) * ratio));
  pen.stroke();
}

// ---------------------------------------------------------------- the hero figure
const hero = data.hero, held = new Set(hero.held);
const against = find('axis');
let answer = hero.answer;
const axis = () => against ? against.value : 'C';
function spread(values, share = 0.04) {
  const [low, high] = [lowest(values), highest(values)];
  const room = Math.max(Math.log(high / low) * share, 0.02);
  return [low * Math.exp(-room), high * Math.exp(room)];
}
const ends = {};
// The least and the largest value of the finished runs.
function endsOf(x) {
  if (!ends[x]) {
    const all = known(finished.map(k => runs.values[x][k]));
    ends[x] = [lowest(all), highest(all)];
  }
  return ends[x];
}
// The frontier as far as the axes reach: to ten times the compute of the answer.
function frontier() {
  if (!hero.frontier || axis() === 'S') return null;
  const found = hero.frontier, x = axis();
  const most = Math.max(10 * endsOf('C')[1], 3 * (answer ? answer.C : 0));
  const kept = found.C.map((C, k) => k).filter(k => found.C[k] <= most && found.L[k] !== null);
  const pick = name => found[name] && kept.map(k => found[name][k]);
  return {x: pick(x), L: pick('L'), low: pick('L_low'), high: pick('L_high'),
    wideLow: pick('wide_low'), wideHigh: pick('wide_high')};
}
function heroX() {
  const x = axis(), line = x === 'C' && frontier(), values = [...endsOf(x)];
  if (x !== 'N' && curves && curves.axes[x]) values.push(Math.exp(curves.axes[x].low));
  if (hero.beside) values.push(...known(hero.beside.runs[x] || []));
  if (line) values.push(...line.x);
  if (answer && answer[x]) values.push(answer[x]);
  return spread(values);
}
function heroY() {
  const values = [...endsOf('L')], line = axis() === 'C' && frontier();
  if (axis() !== 'N' && curves) values.push(Math.exp(curves.axes.L.high));
  if (hero.beside) values.push(...known(hero.beside.runs.L));
  if (line) values.push(...line.L);
  if (answer) values.push(...known([answer.L, answer.L_low]).filter(value => value > 0));
  return spread(values);
}
const heroSpec = {
  x: {log: true, label: () => LABELS[axis()], range: heroX},
  y: {log: true, label: 'Test loss L [nats/token]', range: heroY},
  points: () => finished.filter(k => runs.values[axis()][k] > 0 && runs.values.L[k] > 0).map(
    run => ({run, x: runs.values[axis()][run], y: runs.values.L[run]})),
  ringed: run => held.has(run),
  trace: (plot, pen, run) => {
    pen.strokeStyle = colours[run];
    pen.lineWidth = 2.5;
    if (axis() !== 'N') trace(plot, pen, run, axis());
  },
  behind(plot, pen) {
    const x = axis();
    if (x === 'N') return;
    const seen = traced(), others = finished.length > hero.lines ? [] : finished.filter(
      run => !state.visible(run));
    for (const [some, alpha] of [[others, 0.04], [seen, seen.length > 500 ? 0.18 : 0.4]]) {
      pen.globalAlpha = alpha;
      for (const run of some) {
        pen.strokeStyle = colours[run];
        trace(plot, pen, run, x);
      }
    }
  },
  below(plot, pen) {
    const x = axis();
    if (hero.beside) beside(plot, pen, hero.beside, x);
    const line = x === 'C' && frontier();
    if (!line) return;
    pen.fillStyle = pen.strokeStyle = colour('accent');
    if (line.wideLow) {
      pen.globalAlpha = 0.12;
      plot.band(pen, line.x, line.wideLow, line.wideHigh);
    }
    pen.globalAlpha = 0.25;
    plot.band(pen, line.x, line.low, line.high);
    pen.globalAlpha = 1;
    pen.lineWidth = 2;
    plot.path(pen, line.x, line.L);
  },
  above(plot, pen) {
    const x = axis();
    if (!answer || !(answer[x] > 0) || !(answer.L > 0)) return;
    const [at, y] = [plot.X(answer[x]), plot.Y(answer.L)];
    pen.strokeStyle = colour('ink');
    pen.lineWidth = 2;
    if (answer.L_low > 0 && answer.L_high > 0)
      for (const [x0, y0, x1, y1] of [[0, answer.L_low, 0, answer.L_high],
        [-5, answer.L_low, 5, answer.L_low], [-5, answer.L_high, 5, answer.L_high]])
        plot.line(pen, at + x0, plot.Y(y0), at + x1, plot.Y(y1));
    pen.fillStyle = colour('accent');
    pen.beginPath();
    for (const [dx, dy] of [[0, -8], [8, 0], [0, 8], [-8, 0]]) pen.lineTo(at + dx, y + dy);
    pen.closePath();
    pen.fill();
    pen.stroke();
  },
};
function beside(plot, pen, other, x) {
  pen.strokeStyle = pen.fillStyle = colour('other');
  pen.lineWidth = 1.5;
  (other.runs[x] || []).forEach((at, k) => {
    if (at > 0 && other.runs.L[k] > 0)
      pen.strokeRect(plot.X(at) - 3, plot.Y(other.runs.L[k]) - 3, 6, 6);
  });
  if (x !== 'C' || !other.frontier) return;
  pen.globalAlpha = 0.2;
  plot.band(pen, other.frontier.C, other.frontier.L_low, other.frontier.L_high);
  pen.globalAlpha = 1;
  pen.lineWidth = 2;
  pen.setLineDash([7, 4]);
  plot.path(pen, other.frontier.C, other.frontier.L);
  pen.setLineDash([]);
}

// ---------------------------------------------------------------- why believe it
function law(pen, k) {
  pen.strokeStyle = pen.fillStyle = colour(LAWS[k % LAWS.length]);
  pen.setLineDash(DASHES[k % DASHES.length]);
  pen.lineWidth = 2;
}
const tests = data.backtest, off = data.residuals, disagree = data.laws;
const specs = {
  hero: heroSpec,
  backtest: tests && {
    x: {log: true, label: () => 'Times the compute of the runs fitted',
      range: () => spread(known(tests.points.far))},
    y: {log: false, label: 'Error [%]',
      range: () => [0, 1.08 * highest(known([...tests.points.error,
        ...tests.laws.flatMap(each => each.error)]))]},
    dot: 2.5,
    points: () => tests.points.run.map(
      (run, k) => ({run, x: tests.points.far[k], y: tests.points.error[k]})
    ).filter(point => point.run >= 0 && point.y !== null),
    above: (plot, pen) => {
      tests.laws.forEach((each, k) => { law(pen, k); plot.path(pen, each.far, each.error); });
      pen.setLineDash([]);
    },
  },
  laws: disagree.length > 1 && {
    left: 14,
    x: {log: false, label: () => 'Test loss L [nats/token]', range: () => {
      const values = disagree.flatMap(each => known([each.L, each.low, each.high]));
      const [low, high] = [lowest(values), highest(values)], room = 0.08 * (high - low) || 0.1;
      return [low - room, high + room];
    }},
    y: {log: false, hidden: true, range: () => [disagree.length - 0.4, -0.6]},
    above: (plot, pen) => disagree.forEach((each, k) => {
      law(pen, k);
      pen.setLineDash([]);
      const y = plot.Y(k);
      if (each.low !== null && each.high !== null)
        plot.line(pen, plot.X(each.low), y, plot.X(each.high), y);
      pen.beginPath();
      pen.arc(plot.X(each.L), y, 5, 0, 7);
      pen.fill();
      pen.fillStyle = colour('ink');
      pen.textAlign = 'left';
      pen.fillText(`${each.name}: ${shown(each.L, 'L')}, N = ${shown(each.N, 'N')}`, plot.left + 2, y - 10);
    }),
  },
};
for (const x of ['N', 'D']) specs[`residuals-${x}`] = off && {
  x: {log: true, label: () => LABELS[x], range: () => spread(known(off[x]), 0.06)},
  y: {log: false, label: 'Residual [%]', range: () => {
    const most = 1.1 * (highest(known(off.off).map(Math.abs)) || 1);
    return [-most, most];
  }},
  dot: 3,
  points: () => off.run.map((run, k) => ({run, x: off[x][k], y: off.off[k]})).filter(
    point => point.run >= 0 && point.y !== null),
  below: (plot, pen) => {
    pen.strokeStyle = colour('ink');
    plot.line(pen, plot.left, plot.Y(0), plot.width, plot.Y(0));
  },
};

// ---------------------------------------------------------------- what it costs to deviate
let offered = null;  // the curve of the event `compared`: shares of the loss above the best one
const shares = values => values.map(value => value === null ? null : 100 * value);
specs.deviation = {
  x: {log: true, label: () => LABELS.N, range: () => spread(offered.N, 0.01)},
  y: {log: false, label: 'Loss above the best [%]', range: () => {
    const most = highest(known(shares(offered.over)));
    return [Math.max(lowest(known(shares(offered.low))), -most) - 0.04 * most, most];
  }},
  below: (plot, pen) => {
    const [low, high] = offered.flat.map(plot.X);
    pen.fillStyle = colour('good');
    pen.globalAlpha = 0.18;
    pen.fillRect(low, plot.top, high - low, plot.height);
    pen.fillStyle = pen.strokeStyle = colour('accent');
    plot.band(pen, offered.N, shares(offered.low), shares(offered.high));
    pen.globalAlpha = 1;
    pen.lineWidth = 2;
    plot.path(pen, offered.N, shares(offered.over));
  },
  above: (plot, pen) => {
    if (!answer || !answer.N) return;
    pen.strokeStyle = colour('ink');
    pen.setLineDash([4, 3]);
    plot.line(pen, plot.X(answer.N), plot.top, plot.X(answer.N), plot.height - plot.bottom);
    pen.setLineDash([]);
  },
};
