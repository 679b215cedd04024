// What sizes other than the best one cost.

const REACH = 16, POINTS = 40;  // the curve goes from 1/16 to 16 times the best size

function plannerPrices(data, law) {
  const {count, point, mixed, quantiles, fresh, repeatedFor, lossAt, predicted} = law;

  // analysis.planning.price._same_loss: C and D at `factor` x N for the loss of (N, D)
  function sameLoss(P, o, N, D, factor, served, unique) {
    const a = P[o + 1], b = P[o + 2], al = P[o + 3], be = P[o + 4], k = P[o + 5];
    const lnN = Math.log(N), lnD = Math.log(D), then = Math.log(factor * N);
    let found = NaN;
    if (al > 0 && be > 0 && k > 0) {
      const goal = logaddexp(k * (a - al * lnN), k * (b - be * fresh(lnD, unique)));
      const ofN = k * (a - al * then);
      const ofD = ofN < goal ? goal + Math.log(-Math.expm1(ofN - goal)) : -Infinity;
      const needed = ofN < goal ? (b - ofD / k) / be : Infinity;
      found = needed === Infinity ? Infinity : repeatedFor(needed, unique);
      found = found < lnD + 60 ? Math.max(found, lnD - 30) : Infinity;
    } else {
      const goal = lossAt(P, o, lnN, lnD, unique);
      let low = lnD - 30, high = lnD + 60;
      const reachable = lossAt(P, o, then, high, unique) < goal;
      for (let i = 0; i < 60; i++) {
        const middle = (low + high) / 2;
        if (lossAt(P, o, then, middle, unique) <= goal) high = middle; else low = middle;
      }
      found = reachable ? high : Infinity;
    }
    const tokens = Math.exp(found);
    const ratio = (6 * factor * N * tokens + 2 * factor * N * served)
      / (6 * N * D + 2 * N * served);
    return [ratio, tokens];
  }
  function price({N, D, served, unique}, factor) {
    const [value, tokens] = sameLoss(point, 0, N, D, factor, served, unique);
    const draws = new Float64Array(count);
    for (let j = 0; j < count; j++)
      draws[j] = sameLoss(mixed, j * WIDTH, N, D, factor, served, unique)[0];
    return {D: tokens, ...quantityOf(value, draws, quantiles)};
  }
  const tokensAt = ({N, D, served}, size) => (6 * N * D + 2 * N * served - 2 * size * served)
    / (6 * size);
  // analysis.planning.price.loss_over_best
  function over(best, factor) {
    const {N, D, unique} = best, then = factor * N, tokens = tokensAt(best, then);
    if (!(tokens > 0)) return {value: NaN, low: NaN, high: NaN};
    const [n, d, thenN, thenD] = [N, D, then, tokens].map(Math.log);
    const draws = new Float64Array(count);
    for (let j = 0; j < count; j++) {
      const o = j * WIDTH;
      draws[j] = lossAt(mixed, o, thenN, thenD, unique) / lossAt(mixed, o, n, d, unique);
    }
    return quantityOf(predicted(thenN, thenD, unique) / predicted(n, d, unique), draws, quantiles);
  }
  // Other sizes with the compute of `best`, and what they need for its loss.
  function sizes(best) {
    return data.factors.map(factor => {
      const N = factor * best.N, D = tokensAt(best, N);
      return {
        factor, N, D, L: D > 0 ? predicted(Math.log(N), Math.log(D), best.unique) : NaN,
        over: over(best, factor), price: price(best, factor),
      };
    });
  }
  // The loss over the best one against the size, and the sizes that are as good as the best.
  function curve(best) {
    const found = {N: [], over: [], low: [], high: []};
    for (let k = 0; k <= POINTS; k++) {
      const factor = Math.pow(REACH, 2 * k / POINTS - 1), q = over(best, factor);
      if (!Number.isFinite(q.value)) continue;
      found.N.push(factor * best.N);
      for (const [name, x] of [['over', q.value], ['low', q.low], ['high', q.high]])
        found[name].push(Number.isFinite(x) ? x - 1 : null);
    }
    const end = towards => {
      let near = 0, far = towards * Math.log(REACH);
      for (let i = 0; i < 40; i++) {
        const middle = (near + far) / 2, size = Math.exp(middle) * best.N, D = tokensAt(best, size);
        const L = D > 0 ? predicted(Math.log(size), Math.log(D), best.unique) : Infinity;
        if (L <= (1 + data.flat) * best.L) near = middle; else far = middle;
      }
      return Math.exp(near) * best.N;
    };
    return {...found, flat: [end(-1), end(1)]};
  }

  return {sizes, curve};
}
