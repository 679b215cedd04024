// The controls of the planner: sliders, pins and units. planner_model.js computes the answer,
// planner_words.js and planner_sections.js tell it.

const element = name => document.getElementById('planner-' + name);
const data = JSON.parse(element('data').textContent);
const model = plannerModel(data);
const SYMBOLS = ['C', 'N', 'D'];
const VAST = 1e4, VAST_LOSS = 10;  // analysis.planning.doubts

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

// ---------------------------------------------------------------- drawing

function put(name, text, values = {}) {
  const at = element(name);
  if (at.textContent !== text) at.textContent = text;
  for (const [key, value] of Object.entries(values)) at.dataset[key] = value;
}
function quantity(name, q, write, vast = VAST) {
  put(name, write(q.value), q);
  const exact = q.low === q.high && name !== 'L', asked = state.pins.includes(name);
  put(name + '-interval', !exact ? interval(q, write, vast) : asked ? 'as asked'
    : 'follows from the pins');
}
function deviation({best, excess}) {
  const less = percent(Math.max(excess, 0) / (1 + excess)).replace(' ', NBSP);
  put('deviation', excess === undefined ? '' : `At this compute ${count(best.N)} parameters on `
    + `${count(best.D)} tokens are best, with a loss of ${loss(best.L)}. A run of the best size `
    + `reaches the loss of yours with ${less} less compute.`);
}
function drawCommand(words) {  // an option stays on the line of its value
  const parts = words.map(text => Object.assign(document.createElement('span'), {textContent: text}));
  element('command').replaceChildren(...parts.flatMap((part, i) => i ? [' ', part] : [part]));
}
function draw() {
  const found = answer();
  const single = state.pins.length === 1;
  element('served').disabled = element('served-number').disabled = !single;
  for (const name of SYMBOLS) element('pin-' + name).checked = state.pins.includes(name);
  if (!found) {
    put('answer', 'No plan: the best run for this question is far beyond anything that the law '
      + 'can describe.');
    put('mark', data.marks.unreliable[1], {mark: data.marks.unreliable[0]});
    for (const name of ['trust', 'doubt', 'deviation']) put(name, '');
    later(null);
    return;
  }
  for (const name of SYMBOLS) if (!state.pins.includes(name)) state[name] = found[name].value;
  if (!state.pins.includes('C')) state.amount = state.C / flopsPerUnit();
  if (!single) state.C = found.C.value;
  const [colour, text] = mark(found), why = doubt(found);
  put('answer', sentence(found), {});
  put('mark', text, {mark: colour});
  put('trust', carried());
  put('doubt', why && `Most likely to make it wrong: ${why}.`);
  quantity('C', found.C, flops);
  quantity('N', found.N, count);
  quantity('D', found.D, count);
  quantity('ratio', found.ratio, general);
  quantity('L', found.L, loss, VAST_LOSS);
  const {B, S, lr} = found.recipe;
  for (const [name, value, write] of [['B', B, count], ['S', S, count], ['lr', lr, general]]) {
    put(name, write(value), {value});
    if (name !== 'S') element(name + '-interval').innerHTML = origin(found, name);
  }
  deviation(found);
  drawCommand(command(found));
  follow(found);
  const {C, N, D, L} = found;
  document.dispatchEvent(new CustomEvent('answer', {detail: {
    C: C.value, N: N.value, D: D.value, L: L.value, L_low: L.low, L_high: L.high,
  }}));
  announce(`${text}. ${sentence(found)}`);
  later(found);
}
// The answer is drawn first; the plans and prices below it follow in the next frame.
let next = 0;
function later(found) {
  cancelAnimationFrame(next);
  next = requestAnimationFrame(() => drawSections(found));
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
  const money = state.unit === 'dollars' ? `$${general(hours * price)}, ` : '';
  return `${flops(value)} FLOPs, ${times(more)}x the largest run: ${money}${duration(hours)} of `
    + `one ${gpu}`;
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
