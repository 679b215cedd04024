// A fitted law, combined or single: its losses, its best size at a compute, and their intervals.

// analysis/reporting/law_numbers.py: a law is six numbers, E, log A, log B, alpha, beta and k.
const WIDTH = 6;

function plannerLaw(data, law) {
  const quantiles = data.quantiles[String(data.level)];
  const numbers = row => Float64Array.from(row, x => x === null ? NaN : x);
  const combined = law.combined && {...law.combined, moved: unpacked(law.combined.moved)};
  const members = law.members.map(each => ({
    ...each, point: numbers(each.point), draws: unpacked(each.draws),
    residuals: unpacked(each.residuals), moved: unpacked(each.moved),
  }));
  const {name, count} = law, point = numbers(law.point), mixed = new Float64Array(count * WIDTH);
  let filled = 0;
  members.forEach((each, i) => {
    const rows = each.draws.subarray(0, law.mixed[i] * WIDTH);
    mixed.set(rows, filled);
    filled += rows.length;
  });

  // analysis.data_limits.repeating
  function fresh(lnD, unique) {
    if (unique === Infinity) return lnD;
    const D = Math.exp(lnD);
    if (D <= unique) return lnD;
    return Math.log(unique - unique * data.R_D * Math.expm1(-(D - unique) / unique / data.R_D));
  }
  function repeatedFor(lnFresh, unique) {  // the inverse; infinite if no repetition is worth it
    const D = Math.exp(lnFresh);
    if (D <= unique) return lnFresh;
    const left = 1 - (D - unique) / (unique * data.R_D);
    return left > 0 ? Math.log(unique - unique * data.R_D * Math.log(left)) : Infinity;
  }
  function lossAt(P, o, lnN, lnD, unique) {
    const k = P[o + 5];
    const ofN = k * (P[o + 1] - P[o + 3] * lnN);
    const ofD = k * (P[o + 2] - P[o + 4] * fresh(lnD, unique));
    return P[o] + Math.exp(logaddexp(ofN, ofD) / k);
  }

  // analysis.frontiers.optimum.minimise_over_size
  function minimised(loss, C, served) {
    const at = u => {
      const N = Math.exp(u), D = (C - 2 * N * served) / (6 * N);
      return D > 0 ? loss(Math.log(N), Math.log(D)) : NaN;
    };
    let low = 0, high = Math.log(Math.max(C / 6, 2)), known = true;
    for (let round = 0; round < 5; round++) {
      let best = 0, least = Infinity, seen = false;
      const span = high - low;
      for (let i = 0; i < 33; i++) {
        const v = at(low + span * (i / 32));
        if (!Number.isFinite(v)) continue;
        seen = true;
        if (v < least) [least, best] = [v, i];
      }
      known = known && seen;
      const ends = [Math.max(best - 1, 0), Math.min(best + 1, 32)];
      [low, high] = ends.map(i => low + span * (i / 32));
    }
    return known ? parabola(at, (low + high) / 2) : NaN;
  }
  function parabola(at, u) {
    const left = at(u - 1e-3), mid = at(u), right = at(u + 1e-3), bend = left - 2 * mid + right;
    const shift = bend > 0 ? 0.5 * (left - right) / bend : 0;
    return Math.exp(u + 1e-3 * Math.min(Math.max(shift, -1), 1));
  }
  // The same minimum sooner: in ln N, the logarithm of L - E is convex, so that its slope has one
  // zero, which Newton's method finds. The grids remain for draws with exponents below zero.
  function minimum(P, o, C, served, unique) {
    const a = P[o + 1], b = P[o + 2], al = P[o + 3], be = P[o + 4], k = P[o + 5];
    const loss = (lnN, lnD) => lossAt(P, o, lnN, lnD, unique);
    if (!(al > 0 && be > 0 && k > 0)) return minimised(loss, C, served);
    let low = 0, high = Math.log(Math.max(C / 6, 2));
    if (served > 0) high = Math.min(high, Math.log(C / (2 * served)));
    let slope = 0, u = 0;
    const off = x => {
      const q = served > 0 ? 2 * Math.exp(x) * served / (C - 2 * Math.exp(x) * served) : 0;
      const lnD = Math.log(C / 6) - x - Math.log1p(q);
      let ofD = lnD, lnE = Math.log1p(q), more = q;
      if (unique !== Infinity && Math.exp(lnD) > unique) {
        ofD = fresh(lnD, unique);
        const D = Math.exp(lnD), worth = lnD - (D - unique) / unique / data.R_D - ofD;
        lnE += worth;
        more = q - (1 - D / (unique * data.R_D) - Math.exp(worth)) * (1 + q);
      }
      slope = k * (be * Math.exp(lnE) + al) + more;
      return k * ((b - be * ofD) - (a - al * x)) - Math.log(al / be) + lnE;
    };
    u = (Math.log(al / be) / k + a - b + be * Math.log(C / 6)) / (al + be);
    if (!(u > low && u < high)) u = (low + high) / 2;
    for (let i = 0; i < 100; i++) {
      const f = off(u);
      if (Number.isNaN(f)) return minimised(loss, C, served);
      if (f > 0) high = u; else low = u;
      let next = u - f / slope;
      if (!(next > low && next < high)) next = (low + high) / 2;
      if (Math.abs(next - u) < 1e-11) break;
      u = next;
    }
    if (u < 0.01 || u > Math.log(C / 6) - 0.01) return minimised(loss, C, served);
    return parabola(x => {
      const N = Math.exp(x), D = (C - 2 * N * served) / (6 * N);
      return D > 0 ? loss(Math.log(N), Math.log(D)) : NaN;
    }, u);
  }
  // analysis.frontiers.optimum.optimum_at, for one set of parameters
  function optimum(P, o, C, closed, served, unique) {
    let N;
    if (closed && !served && unique === Infinity) {
      const al = P[o + 3], be = P[o + 4], k = P[o + 5];
      const known = P[o + 1] > -Infinity && P[o + 2] > -Infinity && al > 0 && be > 0 && k > 0;
      const logG = (Math.log(al / be) / k + P[o + 1] - P[o + 2]) / (al + be);
      N = known ? Math.exp(logG) * Math.pow(C / 6, be / (al + be)) : NaN;
    } else N = minimum(P, o, C, served, unique);
    return checked(N, C, served, (n, d) => lossAt(P, o, n, d, unique));
  }
  function checked(N, C, served, loss) {
    const D = (C - 2 * N * served) / (6 * N);
    const L = D > 0 ? loss(Math.log(N), Math.log(D)) : NaN;
    return good(N) && good(D) && good(L) ? {N, D, L} : {N: NaN, D: NaN, L: NaN};
  }

  // analysis.fitting.combination.Combination.predict
  function predicted(lnN, lnD, unique) {
    let sum = 0;
    for (const each of members)
      sum += each.weight * Math.log(lossAt(each.point, 0, lnN, lnD, unique));
    return combined ? Math.exp(sum) : lossAt(point, 0, lnN, lnD, unique);
  }
  function best(C, served, unique) {
    if (!combined) return optimum(point, 0, C, law.closed, served, unique);
    const loss = (lnN, lnD) => predicted(lnN, lnD, unique);
    return checked(minimised(loss, C, served), C, served, loss);
  }

  // The interval of one law: FitResult.predict_interval.
  function memberInterval(each, level, lnN, lnD, unique, noise) {
    const own = lossAt(each.point, 0, lnN, lnD, unique);
    if (each.kind === 'none') return [NaN, NaN];
    let sd = 1;
    if (noise && each.noise) {
      let log = each.noise.constant;
      const at = {N: Math.exp(lnN), D: Math.exp(lnD)};
      for (const [name, exponent] of Object.entries(each.noise.exponents)) {
        const [low, high] = each.noise.ends[name];
        log += exponent * Math.log(Math.min(Math.max(at[name], low), high));
      }
      sd = Math.exp(log / 2);
    }
    if (each.kind === 'delta') {
      const q = each.step.length, on = each.log ? Math.log : x => x;
      let variance = 0;
      for (let i = 0; i < q; i++) {
        const ahead = on(lossAt(each.moved, i * WIDTH, lnN, lnD, unique));
        const behind = on(lossAt(each.moved, (q + i) * WIDTH, lnN, lnD, unique));
        variance += ((ahead - behind) / (2 * each.step[i])) ** 2;
      }
      if (noise) variance += each.variance * sd ** 2;
      const half = each.t[level] * Math.sqrt(variance);
      return each.log
        ? [own * Math.exp(-half), own * Math.exp(half)] : [own - half, own + half];
    }
    const draws = new Float64Array(each.draws.length / WIDTH);
    for (let j = 0; j < draws.length; j++) {
      draws[j] = lossAt(each.draws, j * WIDTH, lnN, lnD, unique);
      if (noise) {
        const r = each.residuals[j] * sd;
        draws[j] = each.log ? draws[j] * Math.exp(r) : draws[j] + r;
      }
    }
    const [low, high] = centralInterval(draws, data.quantiles[level]);
    return noise ? [low, high] : containing(own, low, high);
  }
  // analysis.fitting.slow_term
  function slowTerm(N, D) {
    const lnN = Math.log(N), lnD = Math.log(D), q = combined.absorbed[0].length;
    const loss = lossAt(point, 0, lnN, lnD, Infinity), on = combined.log ? Math.log : x => x;
    const slopes = [];
    for (let i = 0; i < q; i++) {
      const ahead = on(lossAt(combined.moved, i * WIDTH, lnN, lnD, Infinity));
      const behind = on(lossAt(combined.moved, (q + i) * WIDTH, lnN, lnD, Infinity));
      slopes.push((ahead - behind) / (2 * combined.step));
    }
    return Math.max(...combined.exponents.map((exponent, e) => {
      const beyond = combined.term * Math.pow(N * D / combined.largest, -exponent);
      const moved = combined.absorbed[e].reduce((sum, x, i) => sum + x * slopes[i], 0);
      return Math.abs(beyond - (combined.log ? moved * loss : moved)) / loss;
    }));
  }
  // Combination.predict_interval and model_error; kind is 'statistical' or 'extrapolation'
  function lossInterval(N, D, {level = String(data.level), unique, noise, kind}) {
    const lnN = Math.log(N), lnD = Math.log(D);
    if (!combined) return memberInterval(members[0], level, lnN, lnD, unique, noise);
    const centre = predicted(lnN, lnD, unique);
    let below = 0, above = 0, apart = 0;
    for (const each of members) {
      const own = lossAt(each.point, 0, lnN, lnD, unique);
      const [low, high] = memberInterval(each, level, lnN, lnD, unique, noise);
      below += each.weight * Math.log(own / low);
      above += each.weight * Math.log(high / own);
      apart += each.weight * Math.log(own / centre) ** 2;
    }
    if (kind === 'extrapolation') {
      const far = Math.log(N * D / combined.largest) / combined.distance;
      const tested = combined.tested ? combined.tested * Math.max(1, far) : 0;
      const slow = combined.slow * slowTerm(N, D);
      const extra = data.quantiles[level].normal * Math.sqrt(apart + tested ** 2 + slow ** 2);
      [below, above] = [Math.hypot(below, extra), Math.hypot(above, extra)];
    }
    return [centre * Math.exp(-below), centre * Math.exp(above)];
  }

  // analysis.frontiers.parametric: the range of C, with tokens served
  function ranges(served) {
    const C = data.ranges.C.map(([training, perToken]) => training + perToken * served);
    return {C: [Math.min(...C), Math.max(...C)], N: data.ranges.N, D: data.ranges.D};
  }
  // analysis.planning.inverse.compute_for
  function computeFor(of, name, value, served) {
    const off = x => {
      const ratio = of(Math.exp(x))[name] / value;
      if (ratio > 0 && ratio < Infinity) return Math.log(ratio);
      return Number.isNaN(ratio) ? NaN : ratio > 1 ? 1e3 : -1e3;
    };
    const [least, most] = ranges(served).C, middle = 0.5 * (Math.log(least) + Math.log(most));
    for (const reach of [5, 20, 60, 150]) {
      let low = Math.max(middle - reach, Math.log(6)), high = middle + reach;
      let first = off(low), last = off(high);
      if (!(first * last <= 0)) continue;
      for (let i = 0; i < 200 && high - low > 1e-12; i++) {  // false position, halved every third
        let x = i % 3 === 2 ? (low + high) / 2 : low + (high - low) * (first / (first - last));
        x = Math.min(Math.max(x, low), high);
        const y = off(x);
        if (y === 0) return Math.exp(x);
        const close = Math.min(x - low, high - x) < 1e-12;
        if (y * first > 0) [low, first] = [x, y]; else [high, last] = [x, y];
        if (close && i % 3 !== 2) break;
      }
      return Math.exp(low + (high - low) * (first / (first - last)));
    }
    return NaN;
  }
  let nearby = 24;
  // analysis.planning.inverse.compute_draws, which interpolates on a grid of ln C
  function computeOfDraw(o, name, value, C, served, unique) {
    const x = i => Math.log(C) + (i === 48 ? 12 : -12 + 0.5 * i), goal = Math.log(value);
    const path = i =>
      Math.log(optimum(mixed, o, Math.exp(x(i)), law.closed, served, unique)[name]);
    // With positive exponents the path rises and is finite above its first point.
    const rises = mixed[o + 3] > 0 && mixed[o + 4] > 0 && mixed[o + 5] > 0;
    let low = -1, high = 49, below = NaN, above = NaN;
    if (!rises || served > 0) {
      if (!Number.isFinite(path(0)) || !Number.isFinite(path(48))) return Infinity;
    }
    let next = nearby, jump = 1;  // most draws end near the one before
    while (high - low > 1) {
      next = next > low && next < high ? next : (low + high) >> 1;
      const y = path(next), up = y <= goal;
      if (!Number.isFinite(y)) return Infinity;
      if (up) [low, below] = [next, y]; else [high, above] = [next, y];
      next += up ? jump : -jump;
      jump *= 2;
    }
    if (high === 49) return below === goal ? Math.exp(x(48)) : Infinity;
    if (low === -1) return Math.exp(x(0));
    nearby = low;
    if (!(above > below)) return Math.exp(x(low));
    return Math.exp(x(low) + (x(high) - x(low)) * ((goal - below) / (above - below)));
  }

  // analysis.planning.plan: C, N, D, L and D / N of the best run; `asked` is 'C', 'N' or 'D'
  function quantities(asked, value, {served = 0, unique = Infinity} = {}) {
    const of = C => best(C, served, unique);
    const C = asked === 'C' ? value : computeFor(of, asked, value, served);
    const found = C > 0 ? of(C) : {N: NaN, D: NaN, L: NaN};
    if (asked !== 'C') found[asked] = value;
    if (![C, found.N, found.D, found.L].every(good) || found.N < 1 || found.D < 1) return null;
    const draws = {};
    for (const each of ['C', 'N', 'D', 'ratio']) draws[each] = new Float64Array(count);
    for (let j = 0; j < count; j++) {
      const o = j * WIDTH;
      const own = asked === 'C' ? C : computeOfDraw(o, asked, value, C, served, unique);
      const reached = own < Infinity;
      const at = reached ? optimum(mixed, o, own, law.closed, served, unique)
        : {N: Infinity, D: Infinity};
      at[asked] = value;
      for (const each of ['N', 'D']) draws[each][j] = at[each];
      draws.C[j] = asked === 'C' ? value : own;
      draws.ratio[j] = at.D / at.N;
    }
    const quantity = (each, x) => quantityOf(x, draws[each], quantiles);
    const [low, high] = count
      ? lossInterval(found.N, found.D, {unique, kind: 'extrapolation'}) : [NaN, NaN];
    return {
      asked, served, unique,
      C: quantity('C', C), N: quantity('N', found.N), D: quantity('D', found.D),
      L: {value: found.L, low, high}, ratio: quantity('ratio', found.D / found.N),
    };
  }
  // analysis.planning.prediction.predict_run: a run of given N and D, optimal or not
  function runQuantities(N, D, {unique = Infinity} = {}) {
    const L = predicted(Math.log(N), Math.log(D), unique);
    if (!good(L) || N < 1 || D < 1) return null;
    const kind = combined ? 'extrapolation' : 'statistical';
    const [low, high] = lossInterval(N, D, {unique, noise: true, kind});
    const exact = value => ({value, low: value, high: value});
    return {
      asked: 'ND', served: 0, unique, C: exact(6 * N * D), N: exact(N), D: exact(D),
      L: {value: L, low, high}, ratio: exact(D / N),
    };
  }

  return {
    name, count, point, mixed, combined, quantiles, fresh, repeatedFor, lossAt, predicted, best,
    lossInterval, computeFor, ranges, quantities, runQuantities,
  };
}
