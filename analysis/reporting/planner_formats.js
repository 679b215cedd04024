// Numbers as text, in three significant digits, as analysis/reporting/elements.py writes them.

const NBSP = '\u00a0';
const digits = (x, n) => Number(x.toPrecision(n));
const minus = text => text.replace('-', '\u2212');
const two = x => String(digits(x, 2));
function parts(x, n = 2) {
  const [mantissa, power] = x.toExponential(n).split('e');
  return [Number(mantissa), Number(power)];
}
function general(x) {  // Python's format .3g
  if (!x) return '0';
  const [mantissa, power] = parts(x);
  if (power >= -4 && power < 3) return String(digits(x, 3));
  return `${mantissa}e${power < 0 ? '-' : '+'}${String(Math.abs(power)).padStart(2, '0')}`;
}
function number(x) {  // analysis.notebook.number, as HTML
  if (Number.isNaN(x)) return '\u2013';
  if (Math.abs(x) === Infinity) return x > 0 ? '\u221e' : '\u2212\u221e';
  const [mantissa, power] = parts(x);
  if (!x || (power >= -4 && power < 3)) return minus(general(x));
  return `${minus(String(mantissa))}${NBSP}×${NBSP}10<sup>${minus(String(power))}</sup>`;
}
function count(x) {
  for (const [prefix, scale] of [['T', 1e12], ['B', 1e9], ['M', 1e6], ['k', 1e3]])
    if (Math.abs(x) >= 0.9995 * scale && Number.isFinite(x)) return general(x / scale) + prefix;
  return number(x);
}
function loss(x) {
  return Number.isFinite(x) && Math.abs(x) >= 0.01 && Math.abs(x) < 100
    ? minus(x.toPrecision(3)) : number(x);
}
function percent(share, signed = false) {
  if (!Number.isFinite(share)) return '\u2013';
  const x = digits(100 * share, 2);
  return `${signed && !(x < 0 || Object.is(x, -0)) ? '+' : ''}${minus(String(x))} %`;
}
const signed = share => percent(share, true);
const flops = x => x.toExponential(2).replace('e+', 'e');
function times(x) {  // analysis.in_words.times
  if (x >= 1e15) return 'more than 1,000 trillion';
  for (const [name, unit] of [['trillion', 1e12], ['billion', 1e9], ['million', 1e6]])
    if (x >= unit) return `${digits(x / unit, 2).toLocaleString('en')} ${name}`;
  const rounded = digits(x, 2);
  return rounded >= 10 ? rounded.toLocaleString('en') : String(rounded);
}
function interval({low, high}, write, vast) {  // analysis.in_words.interval
  if (Number.isNaN(low) || Number.isNaN(high)) return 'no interval';
  const below = low <= -1e40, above = high >= 1e40;
  const wide = low > 0 && (vast ? high > vast * low : high > Math.max(1e6 * low, 1e3));
  if ((wide && high < Infinity) || (above && (below || low === 0))) return 'not identified';
  const tiny = x => high - low < Infinity
    && Math.abs(x) < 1e-9 * Math.max(Math.abs(low), Math.abs(high));
  const end = x => write(write === number && tiny(x) ? 0 : x);
  const space = write === number ? ' ' : NBSP;
  if (above) return low >= 1e40 ? 'not bounded' : `[${end(low)},${space}not bounded above]`;
  return below ? `not bounded below, ${end(high)}` : `[${end(low)},${NBSP}${end(high)}]`;
}
function spread(q, write, vast) {  // plan_cards.with_interval
  if (q.low === q.high && q.low === q.value) return write(q.value);
  const ends = interval(q, write, vast), shown = ends.startsWith('[') ? ends : `(${ends})`;
  return `${write(q.value)} <span class="interval">${shown}</span>`;
}
function sentenceOf(text) {
  return text ? (text[0].toUpperCase() + text.slice(1)).replace(/[.;:,]*$/, '.') : '';
}
function duration(hours) {
  const units = [['days', 24], ['hours', 1], ['minutes', 1 / 60], ['seconds', 1 / 3600]];
  const [name, unit] = units.find(([, unit]) => hours >= 2 * unit) || units[units.length - 1];
  return `${count(hours / unit)} ${name}`;
}
// A number as people write it: 2e12, 1,000,000, 7B or 1.5 T (scaling.units.number).
function written(text) {
  const [, number, unit] = text.replace(/[, _]/g, '').match(/^(.*?)([kmbgt]?)$/i);
  const scale = {k: 1e3, m: 1e6, b: 1e9, g: 1e9, t: 1e12}[unit.toLowerCase()] || 1;
  return number ? Number(number) * scale : NaN;
}
const word = x => x >= 1e6 || x < 1e-3 ? x.toExponential().replace('e+', 'e') : String(x);
