// Draws and the intervals between their quantiles. Each function of the scripts that compute plans
// names the Python that it repeats; tests compare their numbers.

function unpacked(text) {
  const bytes = Uint8Array.from(atob(text || ''), letter => letter.charCodeAt(0));
  return new Float64Array(bytes.buffer);
}

function logaddexp(a, b) {
  if (a === b) return a + Math.LN2;
  return a > b ? a + Math.log1p(Math.exp(b - a)) : b + Math.log1p(Math.exp(a - b));
}

function good(value) {
  return Number.isFinite(value) && value > 0;
}

// ---------------------------------------------------------------- intervals

// analysis.fitting.draws.containing
function containing(value, low, high) {
  if (!(value < low || value > high)) return [low, high];
  const positive = value > 0 && low > 0;
  const left = positive ? value * (value / high) : 2 * value - high;
  const right = positive ? value * (value / low) : 2 * value - low;
  const least = (a, b) => Number.isNaN(a) ? b : Number.isNaN(b) ? a : Math.min(a, b);
  return [least(low, left), -least(-high, -right)];
}

// analysis.fitting.draws.central_interval; `draws` is sorted in place
function centralInterval(draws, quantiles) {
  for (let j = 0; j < draws.length; j++) {
    const x = Number.isNaN(draws[j]) ? 1e300 : draws[j];
    draws[j] = Math.min(Math.max(x, -1e300), 1e300);
  }
  draws.sort();
  const end = q => {
    const at = q * (draws.length - 1), i = Math.floor(at), t = at - i;
    const a = draws[i], b = draws[Math.min(i + 1, draws.length - 1)];
    const x = t < 0.5 ? a + (b - a) * t : b - (b - a) * (1 - t);
    return Math.abs(x) > 1e250 ? Math.sign(x) * Infinity : x;
  };
  return [end(quantiles.low), end(quantiles.high)];
}

function halfToEven(x) {
  const down = Math.floor(x), rest = x - down;
  return rest < 0.5 || (rest === 0.5 && down % 2 === 0) ? down : down + 1;
}

// analysis.planning.quantity.quantity_of
function quantityOf(value, draws, quantiles) {
  if (!draws.length) return {value, low: NaN, high: NaN};
  const below = draws.map(x => Number.isNaN(x) ? 0 : x).sort();
  const above = draws.map(x => Number.isNaN(x) ? Infinity : x).sort();
  const last = draws.length - 1;
  const [low, high] = containing(
    value, below[halfToEven(quantiles.low * last)], above[halfToEven(quantiles.high * last)]);
  return {value, low, high};
}
