// The decoder of a planned size, and the memory that training it takes.

function plannerShapes(data) {
  const {count, total, vocab, ctx, ff, ranges, words, tolerance} = data.shapes;

  // analysis.planning.model_shape.count_terms
  function counted(terms, {layers: n, width: d, ff: f}) {
    return terms[0] * n * d * d + terms[1] * n * d * f + terms[2] * n * d + terms[3] * n * f
      + terms[4] * d;
  }
  const usualAspect = N => Math.max(52 * Math.pow(N / 1e8, 0.147), 4);
  const headWidth = width => width >= 256 ? 64 : width >= 96 ? 32 : width >= 48 ? 16 : 8;
  function depths(N, aspect) {
    const depth = Math.max(1, Math.cbrt(N / (12 * aspect ** 2)));
    const low = Math.max(1, Math.floor(depth / 2)), high = Math.floor(2 * depth) + 1;
    const found = new Set();
    for (let i = 0; i < 64; i++) found.add(halfToEven(low + (high - low) * i / 63));
    return [...found].sort((a, b) => a - b);
  }
  // analysis.planning.model_shape.suggest_model
  function suggested(N, {depth, aspect = usualAspect(N), head: given, ffRatio} = {}) {
    let best = null, least = Infinity;
    for (const layers of depth ? [depth] : depths(N, aspect)) {
      const width = Math.sqrt(N / (12 * layers)), head = given || headWidth(width);
      const about = width / head;
      const fewest = Math.max(1, Math.trunc(0.7 * about), Math.trunc(about) - 8);
      const most = Math.trunc(Math.min(1.3 * about, about + 8));
      for (let heads = fewest; heads < most + 2; heads++) {
        const d = heads * (depth ? 2 * Math.max(1, halfToEven(width / heads / 2)) : head);
        const model = {
          layers, width: d, heads, ff: ffRatio === undefined ? ff * d : halfToEven(ffRatio * d),
        };
        const off = Math.log(counted(count, model) / N);
        const odd = Math.log(depth ? d / heads / head : d / layers / aspect);
        const cost = (off / 0.05) ** 2 + (odd / 0.4) ** 2;
        if (cost < least) [best, least] = [model, cost];
      }
    }
    return best;
  }
  // analysis.planning.shape_family.ShapeFamily.sentences
  function outside({layers, width, heads, ff: f}) {
    const values = {
      n_layer: layers, d_model: width, aspect: width / layers, n_head: heads, head: width / heads,
      ff_ratio: f / width,
    };
    return Object.entries(ranges).flatMap(([name, [low, high]]) => {
      const value = values[name], one = name === 'n_layer' && low === high;
      const most = one ? 1 : tolerance;
      if (low / most <= value * (1 + 1e-9) && value <= high * most * (1 + 2e-9)) return [];
      if (one)
        return [`all runs have ${low} layer${low === 1 ? '' : 's'}; `
          + `${value > low ? 'deeper' : 'shallower'} is untested`];
      const ends = low === high ? general(low) : `${general(low)} to ${general(high)}`;
      const said = words[name].replace(/\{:,\.(\d)[fg]\}/, (_, digits) =>
        digits === '0' ? value.toLocaleString('en') : general(value));
      return [`${said} (runs: ${ends})`];
    });
  }
  // analysis.planning.shape_family.ShapeFamily.suggest
  function kin(N) {
    const within = (x, [low, high]) => Math.min(Math.max(x, low), high);
    const [shallow, deep] = ranges.n_layer, depth = shallow === deep ? shallow : undefined;
    const aspect = within(usualAspect(N), ranges.aspect);
    const width = depth ? Math.sqrt(N / (12 * depth)) : Math.cbrt(aspect ** 2 * N / 12);
    const head = within(headWidth(width), ranges.head || [-Infinity, Infinity]);
    const ffRatio = ranges.ff_ratio && within(4, ranges.ff_ratio);
    return suggested(N, {depth, aspect, head: Math.max(1, halfToEven(head)), ffRatio});
  }
  // analysis.planning.accelerators.memory
  function memory(model) {
    if (!total) return null;
    const states = 16 * (counted(total, model));
    const activations = 34 * ctx * model.width * model.layers + 6 * ctx * vocab;
    const need = (states + activations) / (1 - data.shapes.free);
    return {
      states,
      gpus: Object.entries(data.shapes.memory).map(([gpu, bytes]) => [gpu, Math.ceil(need / bytes)]),
    };
  }
  // analysis.planning.plan: a decoder of nearly N parameters and, if its proportions are outside
  // those of the runs, one of theirs
  function shapesOf(N) {
    const model = suggested(N);
    const off = outside(model), own = off.length ? kin(N) : null;
    const same = own && Object.keys(own).every(key => own[key] === model[key]);
    return {
      model, kin: same ? null : own, outside: off, N: counted(count, model), memory: memory(model),
    };
  }
  return shapesOf;
}
