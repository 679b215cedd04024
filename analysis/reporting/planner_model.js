// The plan of `scaling plan`, computed from the draws of the fits.

function plannerModel(data) {
  const laws = data.laws.map(law => plannerLaw(data, law)), [first] = laws;
  const {sizes, curve} = plannerPrices(data, first), shapesOf = plannerShapes(data);

  // analysis.planning.recipe
  function recipe(N, D, L) {
    const {at} = data.recipe, found = {beyond: {}};
    for (const name of ['B', 'lr']) {
      const {value, powers, range} = data.recipe[name];
      found[name] = value * Math.pow(N / at.N, powers.N) * Math.pow(D / at.D, powers.D)
        * Math.pow(L / at.L, powers.L);
      if (range)
        found.beyond[name] = Math.max(1, found[name] / range[1], range[0] / found[name]);
    }
    return {...found, S: D / found.B};
  }

  // analysis.planning.extrapolation
  function extrapolation(best, served) {
    const {always, never, inside} = data.extrapolation, within = first.ranges(served);
    const tested = data.extrapolation.tested, beyond = {}, limits = {}, below = [];
    for (const name of ['C', 'N', 'D']) {
      const [low, high] = within[name];
      beyond[name] = Math.max(1, best[name] / high, low / best[name]);
      limits[name] = Math.min(Math.max(high / low, always), never);
      if (best[name] < low) below.push(name);
    }
    let excess = Object.keys(beyond).filter(name => beyond[name] > limits[name]);
    if (excess.includes('C')) excess = ['C'];
    const far = Math.max(...Object.values(beyond));
    const band = excess.length ? 'unreliable'
      : far <= inside ? 'inside' : far <= (tested || 1) ? 'tested' : 'untested';
    return {beyond, limits, below, excess, band};
  }
  // analysis.planning.extrapolation.Extrapolation.lines, but for what makes a plan unreliable
  function distanceLines({beyond}) {
    const {inside, tested} = data.extrapolation;
    const outside = Object.entries(beyond).filter(([, factor]) => factor > inside);
    if (!outside.length) return [];
    const factors = outside.map(([name, factor]) => `${name} ${general(factor)}x`).join(', ');
    if (!outside.some(([, factor]) => factor > 10))
      return [`extrapolates: ${factors} beyond the data`];
    const test = tested ? `held-out runs test the law up to ${general(tested)}x in C`
      : 'too few runs to test any extrapolation';
    return [`EXTRAPOLATION: ${factors} beyond the data; ${test}. The interval is a lower bound on `
      + 'the uncertainty: it assumes that the law holds there'];
  }
  function distance({beyond, below}, name) {
    const [what, who] = {
      C: ['the compute', 'run'], N: ['the parameters', 'model'], D: ['the tokens', 'run'],
    }[name];
    const far = `${times(beyond[name])} times`;
    return below.includes(name) ? `${what} is ${far} less than that of the smallest ${who}`
      : `${far} ${what} of the ${name === 'D' ? 'longest' : 'largest'} ${who}`;
  }
  // analysis.planning.doubts: what makes a plan unreliable; `computed` are its quantities with
  // intervals, and `lines` what is known of its law
  function unreliable(found, law, lines, computed, run) {
    const {doubts} = data, out = [], far = found.extrapolation;
    const add = (code, text) => out.push({code, text});
    if (far.excess.length)
      add('unreliable_extrapolation', far.excess.map(name => distance(far, name)).join('; '));
    if (law.combined) {
      const [low, high] = law.lossInterval(found.N.value, found.D.value,
        {level: doubts.close_level, unique: found.unique, kind: 'extrapolation'});
      const half = low > 0 && high < Infinity ? Math.log(high / low) / 2 : Infinity;
      const known = half < 1 ? `to about ${two(100 * half)} %` : 'hardly at all';
      if (!(half <= doubts.close))
        add('loss_uncertain', `the loss is known ${known} (90 % extrapolation interval)`);
    }
    const known = q => !(Number.isNaN(q.low) || Number.isNaN(q.high));
    const unknown = computed.filter(name => !known(found[name]));
    if (unknown.length) add('no_interval', `no interval of ${unknown.join(', ')} is known`);
    for (const name of computed) {
      const q = found[name], limit = name === 'L' ? doubts.wide_loss : doubts.wide;
      if (!known(q) || (0 < q.high && q.high <= limit * q.low && q.high < Infinity)) continue;
      const factor = q.high / q.low;
      const span = factor < 1e6 ? `a factor of ${times(factor)}` : 'more than a millionfold';
      add('wide_interval', `the interval of ${name} `
        + (q.high === Infinity ? 'has no upper end' : `spans ${span}`));
    }
    const {N} = found;
    const narrow = run || (0 < N.high && N.high <= doubts.wide * N.low && N.high < Infinity);
    for (const text of narrow ? lines.wrong : lines.open) add('fit', text);
    return out;
  }
  const computed = asked => ['C', 'N', 'D', 'L'].filter(name => name !== asked);

  // The same request under the other laws.
  function rivals(ask) {
    return laws.slice(1).map((law, k) => {
      const found = ask(law), {name, error, missed, wrong, doubts} = data.laws[k + 1];
      if (!found) return {name, error, missed, wrong, found};
      const {C, N, D} = found;
      found.extrapolation = extrapolation({C: C.value, N: N.value, D: D.value}, found.served);
      const asked = found.asked === 'ND' ? ['L'] : computed(found.asked);
      found.doubts = unreliable(found, law, doubts, asked, found.asked === 'ND');
      return {name, error, missed, wrong, found};
    });
  }
  // analysis.planning.plans: laws that predict as well and say something else
  function disagreement(found, others) {
    const near = others.filter(each => each.found && !each.wrong
      && each.error <= data.test.alike * data.test.error);
    const N = [[data.test.name, found.N.value], ...near.map(each => [each.name, each.found.N.value])];
    N.sort(([, a], [, b]) => a - b);
    const [low, least] = N[0], [high, most] = N[N.length - 1];
    if (most <= data.test.apart * least) return [];
    return [{code: 'laws_disagree', text: `${low} and ${high} predict the larger runs about `
      + `equally well and differ by a factor of ${times(most / least)} in N`}];
  }
  function completed(found) {
    const N = found.N.value, D = found.D.value, C = found.C.value;
    found.recipe = recipe(N, D, found.L.value);
    found.extrapolation = extrapolation({C, N, D}, found.served);
    found.shapes = shapesOf(N);
    return found;
  }

  // analysis.planning.plans.plans; `asked` is 'C', 'N' or 'D'
  function plan(asked, value, options) {
    const found = first.quantities(asked, value, options);
    if (!found) return null;
    completed(found);
    found.rivals = rivals(law => law.quantities(asked, value, options));
    found.doubts = [
      ...unreliable(found, first, data.doubts, computed(asked), false),
      ...disagreement(found, found.rivals),
    ];
    found.best = {N: found.N.value, D: found.D.value, L: found.L.value, ...asOptions(found)};
    return found;
  }
  const asOptions = ({served, unique}) => ({served, unique});

  // analysis.planning.prediction.predict_run: a run of given N and D, optimal or not
  function run(N, D, options) {
    const found = first.runQuantities(N, D, options);
    if (!found) return null;
    completed(found);
    found.rivals = rivals(law => law.runQuantities(N, D, options));
    found.doubts = unreliable(found, first, data.doubts, ['L'], true);
    const {unique} = found;
    found.best = {...first.best(found.C.value, 0, unique), served: 0, unique};
    const least = first.computeFor(C => first.best(C, 0, unique), 'L', found.L.value, 0);
    found.excess = found.C.value / least - 1;
    return found;
  }
  // What `scaling plan` notes beside the doubts.
  function notes(found) {
    const {D, unique, shapes, doubts} = found, out = [];
    if (unique * 1.005 < D.value)
      out.push(`D is ${general(D.value / unique)} epochs of the ${general(unique)} unique tokens; `
        + 'their worth is that of Muennighoff et al. 2023 (R_D* = 15.4, which their runs hardly '
        + 'bound from above)');
    out.push(...distanceLines(found.extrapolation));
    if (shapes.outside.length)
      out.push(`the shape is outside those of the runs: ${shapes.outside.join('; ')}`);
    if (Math.abs(shapes.N / found.N.value - 1) > 0.1)
      out.push(`no shape of the usual proportions has N = ${general(found.N.value)}; the nearest `
        + `has N = ${shapes.N}`);
    out.push(...data.doubts.notes);
    return out.filter(line => !doubts.some(doubt => doubt.text === line));
  }

  return {plan, run, notes, sizes, curve, ranges: first.ranges};
}
