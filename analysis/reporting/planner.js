// The controls of the planner: sliders, pins and units. planner_model.js computes the answer.

const element = name => document.getElementById('planner-' + name);
const data = JSON.parse(element('data').textContent);
const model = plannerModel(data);
const SYMBOLS = ['C', 'N', 'D'];
const NAMES = {C: 'the compute', N: 'the parameters', D: 'the tokens'};

// ---------------------------------------------------------------- words

const three = x => String(Number(x.toPrecision(3))).replace('e+', 'e');
function count(x) {  // scaling.units.count
  for (const [prefix, scale] of [['T', 1e12], ['B', 1e9], ['M', 1e6], ['k', 1e3]])
    if (Math.abs(x) >= 0.9995 * scale) return three(x / scale) + prefix;
  return three(x);
}
const flops = x => x.toExponential(2).replace('e+', 'e');
const loss = x => x.toFixed(2);
const percent = x => Number((100 * x).toPrecision(2)) + ' %';
function times(x) {
  const names = [['trillion', 1e12], ['billion', 1e9], ['million', 1e6]];
  for (const [name, unit] of names)
    if (x >= unit) return Number((x / unit).toPrecision(2)) + ' ' + name;
  const rounded = Number(x.toPrecision(2));
  return rounded >= 10 ? rounded.toLocaleString('en') : String(rounded);
}
function interval(q, write, vast) {
  if (Number.isNaN(q.low) || Number.isNaN(q.high)) return 'no interval';
  const open = !(q.high < 1e40);
  if ((q.low > 0 && !open && q.high > vast * q.low) || (open && !(q.low > 0)))
    return 'not identified';
  return open ? `[${write(q.low)}, not bounded above]` : `[${write(q.low)}, ${write(q.high)}]`;
}
function ratio(x) {
  if (x === Infinity) return 'unreachable';
  if (x > 100) return 'more than 100x';
  if (x < 0.01) return 'less than 1/100';
  const change = 100 * (x - 1);
  return x < 11 ? `${change < 0 ? '\u2212' : '+'}${Math.abs(change).toFixed(1)} %` : three(x) + 'x';
}
function spread({low, high}) {
  if (Number.isNaN(low) || Number.isNaN(high)) return 'no interval';
  if (low < 0.01 && high > 100) return 'not identified';
  if (low === Infinity) return '';
  return `[${ratio(low)}, ${ratio(high)}]`;
}
// A number as people write it: 2e12, 1,000,000, 7B or 1.5 T (scaling.units.number).
function written(text) {
  const [, number, unit] = text.replace(/[, _]/g, '').match(/^(.*?)([kmbgt]?)$/i);
  const scale = {k: 1e3, m: 1e6, b: 1e9, g: 1e9, t: 1e12}[unit.toLowerCase()] || 1;
  return number ? Number(number) * scale : NaN;
}
const digits = (x, n) => Number(x.toPrecision(n));
const word = x => x >= 1e6 || x < 1e-3 ? x.toExponential().replace('e+', 'e') : String(x);

// ---------------------------------------------------------------- the question

const state = {
  C: data.start.C, N: null, D: null, pins: ['C'], unit: 'flops', amount: data.start.C,
  served: 0, unique: Infinity,
};
const scales = {  // ends of the sliders, as powers of ten
  C: ends(model.ranges(0).C), N: ends(data.ranges.N), D: ends(data.ranges.D),
};
function ends([low, high]) {
  return [Math.log10(low) - 1, Math.log10(high) + 4];
}
scales.served = scales.unique = [Math.log10(data.ranges.D[0]) - 1, scales.D[1] + 2];

function device() {
  const peak = data.devices[element('device').value], precision = element('precision').value;
  const mfu = Number(element('mfu').value);
  return {peak: peak[precision], mfu, price: Number(element('price').value)};
}
function flopsPerUnit() {
  const {peak, mfu, price} = device();
  if (state.unit === 'flops') return 1;
  return state.unit === 'hours' ? 3600 * peak * mfu : 3600 * peak * mfu / price;
}
// In the order of analysis.planning.accelerators.compute_budget, for the same rounding.
function flopsOf(amount) {
  const {peak, mfu, price} = device();
  if (state.unit === 'flops') return amount;
  return (state.unit === 'hours' ? amount : amount / price) * 3600 * peak * mfu;
}
function setAmount(amount) {
  if (!(amount > 0 && flopsOf(amount) < 1e30)) return false;
  state.amount = amount;
  state.C = flopsOf(amount);
  return true;
}

function pin(name, on) {
  const before = state.pins;
  state.pins = state.pins.filter(each => each !== name);
  if (on) state.pins.push(name);
  if (state.pins.length > 2) state.pins.shift();
  if (!state.pins.length) state.pins = ['C'];
  if (state.pins.includes('C') && !before.includes('C'))
    setAmount(digits(state.C / flopsPerUnit(), 6));
  if (on && name !== 'C') state[name] = digits(state[name], 7);
}
function answer() {
  const {pins, unique} = state, options = {served: state.served, unique};
  if (pins.length === 1) return model.plan(pins[0], state[pins[0]], options);
  if (!pins.includes('D')) state.D = digits(state.C / (6 * state.N), 7);
  if (!pins.includes('N')) state.N = digits(state.C / (6 * state.D), 7);
  return model.run(state.N, state.D, {unique});
}

// ---------------------------------------------------------------- the answer in words

function sentence(found) {
  const run = `${count(found.N.value)} parameters on ${count(found.D.value)} tokens`;
  const result = `loss ${loss(found.L.value)} ${interval(found.L, loss, 10)}`;
  const C = found.C.value, more = C / data.start.largest, budget = `${flops(C)} FLOPs`;
  const lead = {
    C: more > 1.01 ? `With ${times(more)}x the compute` : `With ${budget}`,
    N: `To make the best of ${count(found.N.value)} parameters, ${budget}`,
    D: `To make the best of ${count(found.D.value)} tokens, ${budget}`,
    ND: `With ${budget}, spent as pinned`,
  }[found.asked];
  const missed = data.test.cuts
    ? `the law missed its held-out runs by ${data.test.missed}` : 'the law was not tested';
  return `${lead}: ${run}, ${result}; ${missed}.`;
}

// The mark: the word, and a class for its colour.
function mark(found) {
  if (found.doubts.length) return ['not supported', 'bad'];
  const {band} = found.extrapolation;
  return band === 'untested' ? ['extrapolates', 'warn'] : ['tested within', 'good'];
}
function carried() {
  const share = each => data.members.length > 1
    ? `${each.name} (${Math.round(100 * each.weight)} %)` : each.name;
  const by = `Carried by ${data.members.map(share).join(' and ')}`;
  if (!data.test.cuts) return `${by}; the runs are too few to hold any out as a test.`;
  return `${by}; fitted to the smaller runs alone, it missed the ${data.test.runs} larger ones, `
    + `up to ${times(data.test.reach)}x the compute, by ${data.test.missed}.`;
}
// What is most likely to make the answer wrong: the first of analysis.planning.answer.doubts.
function doubt(found) {
  const {extrapolation: far, doubts} = found;
  if (doubts.length) return unreliable(doubts[0], far);
  const C = far.beyond.C, {test} = data;
  if (!test.cuts) return 'the law was not tested on larger runs';
  if (C > test.reach)
    return `the law was tested up to ${times(test.reach)} times the compute, and this is `
      + `${times(C)} times`;
  const near = found.rivals.filter(each => each.error <= test.similar * test.error);
  const sizes = near.map(each => each.N), all = [found.N.value, ...sizes];
  if (near.length && Math.max(...all) >= test.different * Math.min(...all)) {
    if (near.length > 1)
      return `laws that predict about as well say ${count(Math.min(...sizes))} to `
        + `${count(Math.max(...sizes))} parameters`;
    return `${near[0].name}, which missed the larger runs by ${near[0].missed}, says `
      + `${count(near[0].N)} parameters on ${count(near[0].D)} tokens`;
  }
  if (found.unique * 1.005 < found.D.value)
    return `D is ${three(found.D.value / found.unique)} epochs of the unique tokens, whose worth `
      + 'is that of other work';
  const N = found.N.value / data.ranges.N[1], D = found.D.value / data.ranges.D[1];
  if (Math.max(N, D) > data.doubts.longer) {
    const parts = [];
    if (N > data.doubts.longer) parts.push(`${times(N)} times as many parameters`);
    if (D > data.doubts.longer) parts.push(`${times(D)} times as many tokens`);
    return `it takes ${parts.join(' and ')} as any run`;
  }
  const B = found.recipe.beyond.B || 1;
  if (B > data.doubts.longer) return `its batches are ${times(B)} times those of the runs`;
  if (!data.doubts.searched) return 'its learning rate follows a rule and was not searched';
  return data.doubts.one_seed ? 'every run has the same seed, so their noise is unknown' : '';
}
function unreliable(line, far) {
  const name = line.name || far.excess[0];
  switch (line.code) {
    case 'unreliable_extrapolation':
      return far.below.includes(name)
        ? `${NAMES[name]} are ${times(far.beyond[name])} times below those of any run`
        : `this is ${times(far.beyond[name])} times ${NAMES[name]} of the largest run`;
    case 'loss_uncertain':
      return line.half < 1 ? `the loss is known to about ${percent(line.half)}`
        : 'the loss is hardly known at all';
    case 'no_interval': return `no interval of ${line.names.join(', ')} is known`;
    case 'wide_interval':
      return line.factor < 1e6
        ? `the interval of ${line.name} spans a factor of ${times(line.factor)}`
        : `the interval of ${line.name} has no end`;
    case 'laws_disagree':
      return `${line.low} and ${line.high} predict the larger runs about equally well and differ `
        + `by a factor of ${times(line.factor)} in N`;
    default: return line.text;
  }
}

function command(found) {
  const {peak, mfu, price} = device(), words = [data.command];
  if (found.asked === 'C' && state.unit === 'flops') words.push(`--flops ${word(state.C)}`);
  else if (found.asked === 'C') {
    if (state.unit === 'hours') words.push(`--gpus 1 --hours ${word(state.amount)}`);
    else words.push(`--dollars ${word(state.amount)} --dollars-per-hour ${word(price)}`);
    words.push(`--gpu ${element('device').value}`);
    if (element('precision').value !== 'bf16')
      words.push(`--precision ${element('precision').value}`);
    if (mfu !== data.mfu) words.push(`--mfu ${word(mfu)}`);
  }
  if (found.asked.includes('N')) words.push(`--params ${word(state.N)}`);
  if (found.asked.includes('D')) words.push(`--tokens ${word(state.D)}`);
  if (found.served) words.push(`--inference-tokens ${word(found.served)}`);
  if (found.unique < Infinity) words.push(`--unique-tokens ${word(found.unique)}`);
  return words.join(' ');
}

// ---------------------------------------------------------------- drawing

function put(name, text, values = {}) {
  const at = element(name);
  if (at.textContent !== text) at.textContent = text;
  for (const [key, value] of Object.entries(values)) at.dataset[key] = value;
}
function quantity(name, q, write, vast = 1e4) {
  put(name, write(q.value), q);
  put(name + '-interval', q.low === q.high && name !== 'L' ? 'as asked' : interval(q, write, vast));
}
function cost(found) {
  const rows = found.deviations.map(({factor, value, low, high, D}) => {
    const row = document.createElement('tr');
    const cells = [
      `${factor} x N`, ratio(value), spread({low, high}), value <= 100 ? count(D) : '\u2013'];
    cells.forEach((text, i) => {
      const cell = document.createElement(i ? 'td' : 'th');
      if (!i) cell.scope = 'row';
      cell.textContent = text;
      row.append(cell);
    });
    Object.assign(row.dataset, {factor, value, low, high, tokens: D});
    return row;
  });
  element('cost').hidden = !rows.length;
  element('cost').tBodies[0].replaceChildren(...rows);
  const {best} = found;
  put('deviation', best ? `At this compute ${count(best.N)} parameters on ${count(best.D)} tokens `
    + `are best, with a loss of ${best.L.toFixed(3)}. A run of the best size reaches the loss of `
    + `yours with ${percent(Math.max(found.excess, 0) / (1 + found.excess))} less compute.` : '');
}
function draw() {
  const found = answer();
  const single = state.pins.length === 1;
  element('served').disabled = element('served-number').disabled = !single;
  for (const name of SYMBOLS) element('pin-' + name).checked = state.pins.includes(name);
  if (!found) {
    put('answer', 'No plan: the best run for this question is far beyond anything that the law '
      + 'can describe.');
    put('mark', 'not supported', {mark: 'bad'});
    for (const name of ['trust', 'doubt', 'deviation']) put(name, '');
    return;
  }
  for (const name of SYMBOLS) if (!state.pins.includes(name)) state[name] = found[name].value;
  if (!state.pins.includes('C')) state.amount = state.C / flopsPerUnit();
  if (!single) state.C = found.C.value;
  const [text, colour] = mark(found), why = doubt(found);
  put('answer', sentence(found), {});
  put('mark', text, {mark: colour});
  put('trust', carried());
  put('doubt', why && `Most likely to make it wrong: ${why}.`);
  quantity('C', found.C, flops);
  quantity('N', found.N, count);
  quantity('D', found.D, count);
  quantity('ratio', found.ratio, three);
  quantity('L', found.L, x => x.toFixed(3), 10);
  const {B, S, lr, beyond} = found.recipe;
  for (const [name, value, write] of [['B', B, count], ['S', S, count], ['lr', lr, three]]) {
    put(name, write(value), {value});
    if (!data.recipe.sources[name]) continue;
    const far = beyond[name] > data.extrapolation.inside ? `; ${times(beyond[name])}x beyond the runs` : '';
    put(name + '-interval', data.recipe.sources[name] + far);
  }
  cost(found);
  put('command', command(found));
  follow(found);
  const {C, N, D, L} = found;
  document.dispatchEvent(new CustomEvent('answer', {detail: {
    C: C.value, N: N.value, D: D.value, L: L.value, L_low: L.low, L_high: L.high,
  }}));
  announce(`${text}. ${sentence(found)}`);
}

// Sliders and number fields follow the answer, except the one in use.
function follow(found) {
  const fields = {
    C: [state.C, state.amount], N: [state.N, state.N], D: [state.D, state.D],
    served: [state.served, state.served], unique: [state.unique, state.unique],
  };
  for (const [name, [value, shown]] of Object.entries(fields)) {
    const follows = SYMBOLS.includes(name) && !state.pins.includes(name);
    const slider = element(name === 'served' || name === 'unique' ? name : 'slider-' + name);
    const number = element(name + '-number'), [low, high] = scales[name];
    const none = name === 'served' ? low : high;
    const at = value > 0 && value < Infinity ? Math.log10(value) : none;
    if (slider !== moving) slider.value = Math.min(Math.max(at, low), high);
    slider.setAttribute('aria-valuetext', spoken(name, value));
    if (number !== document.activeElement || moving)
      number.value = value > 0 && value < Infinity ? word(digits(shown, follows ? 3 : 6)) : '';
  }
  put('budget-words', spoken('C', found.C.value));
}
function spoken(name, value) {
  if (name === 'served') return value ? `${count(value)} tokens` : 'none';
  if (name === 'unique') return value < Infinity ? `${count(value)} tokens` : 'unlimited';
  if (name !== 'C') return `${count(value)} ${name === 'N' ? 'parameters' : 'tokens'}`;
  const more = value / data.start.largest, {peak, mfu, price} = device();
  const hours = value / (3600 * peak * mfu), gpu = element('device').value;
  const money = state.unit === 'dollars' ? `$${three(hours * price)}, ` : '';
  return `${flops(value)} FLOPs, ${times(more)}x the largest run: ${money}${three(hours)} hours `
    + `of one ${gpu}`;
}

// Screen readers hear the answer once the controls rest.
let waiting = 0;
function announce(text) {
  clearTimeout(waiting);
  waiting = setTimeout(() => put('live', text), 800);
}

// ---------------------------------------------------------------- controls

let moving = null, scheduled = false, began = 0;
function soon() {
  if (scheduled) return;
  scheduled = true;
  began = performance.now();
  requestAnimationFrame(() => {
    scheduled = false;
    draw();
    moving = null;
    element('section').dataset.ms = performance.now() - began;
  });
}
function asked(name, value) {
  if (name === 'served' || name === 'unique') state[name] = value;
  else {
    if (name === 'C') { if (!setAmount(value)) return; } else state[name] = value;
    if (!state.pins.includes(name)) pin(name, true);
  }
  soon();
}
for (const name of [...SYMBOLS, 'served', 'unique']) {
  const extra = name === 'served' || name === 'unique';
  const slider = element(extra ? name : 'slider-' + name), number = element(name + '-number');
  const [low, high] = scales[name];
  [slider.min, slider.max, slider.step] = [low, low + Math.ceil((high - low) * 100) / 100, 0.01];
  scales[name] = [low, Number(slider.max)];
  slider.addEventListener('input', () => {
    const at = Number(slider.value);
    moving = slider;
    if (name === 'served' && at <= low + 0.005) return asked(name, 0);
    if (name === 'unique' && at >= Number(slider.max) - 0.005) return asked(name, Infinity);
    const value = Math.pow(10, at);
    asked(name, digits(name === 'C' ? value / flopsPerUnit() : value, 4));
  });
  number.addEventListener('input', () => {
    const text = number.value.trim(), value = written(text);
    const valid = text ? value > 0 && value < 1e30 : extra;
    number.setAttribute('aria-invalid', String(!valid));
    if (valid) asked(name, text ? value : name === 'served' ? 0 : Infinity);
  });
}
for (const name of SYMBOLS) element('pin-' + name).addEventListener('change', event => {
  pin(name, event.target.checked);
  soon();
});
function units() {
  const {unit} = state, peak = data.devices[element('device').value];
  const precision = element('precision'), was = precision.value;
  precision.replaceChildren(...Object.keys(peak).map(name => new Option(name, name)));
  precision.value = was in peak ? was : 'bf16' in peak ? 'bf16' : Object.keys(peak)[0];
  element('hardware').hidden = unit === 'flops';
  element('price').disabled = unit !== 'dollars';
}
element('unit').addEventListener('change', event => {
  state.unit = event.target.value;
  units();
  setAmount(digits(state.C / flopsPerUnit(), 6));
  soon();
});
for (const name of ['device', 'precision', 'mfu', 'price'])
  element(name).addEventListener('input', () => {
    const {mfu, price} = device();
    if (!(mfu > 0 && mfu <= 1) || !(price > 0)) return;
    units();
    if (state.unit !== 'flops' && state.pins.includes('C')) setAmount(state.amount);
    soon();
  });
element('copy').addEventListener('click', async () => {
  const text = element('command').textContent;
  try {
    await navigator.clipboard.writeText(text);
    put('copied', 'Copied.');
  } catch {
    getSelection().selectAllChildren(element('command'));
    put('copied', document.execCommand('copy') ? 'Copied.' : 'Selected; copy it with Ctrl+C.');
  }
});
element('reset').addEventListener('click', () => {
  Object.assign(state, {pins: ['C'], served: 0, unique: Infinity, unit: 'flops'});
  element('unit').value = 'flops';
  units();
  setAmount(data.start.C);
  soon();
});

// The ranges of the data, and how far they were tested, under the sliders.
for (const name of SYMBOLS) {
  const [low, high] = scales[name], [least, most] = name === 'C' ? model.ranges(0).C
    : data.ranges[name];
  const place = (band, from, to) => {
    const share = x => 100 * (Math.min(Math.max(Math.log10(x), low), high) - low) / (high - low);
    band.style.left = share(from) + '%';
    band.style.width = share(to) - share(from) + '%';
  };
  place(element('data-' + name), least, most);
  if (name === 'C') place(element('tested-C'), most, most * (data.extrapolation.tested || 1));
}
units();
draw();
element('section').classList.add('planner-live');
