// The answer in words, and the command that prints it.

function sentence(found) {
  const run = `${count(found.N.value)} parameters on ${count(found.D.value)} tokens`;
  const result = `loss ${loss(found.L.value)} ${interval(found.L, loss, VAST_LOSS)}`;
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

// The mark: a class for its colour, and its words.
function mark(found) {
  return data.marks[found.doubts.length ? 'unreliable' : found.extrapolation.band];
}
function carried() {
  const {members} = data.laws[0];
  const share = each => members.length > 1
    ? `${each.name} (${Math.round(100 * each.weight)} %)` : each.name;
  const by = `Carried by ${members.map(share).join(' and ')}`;
  if (!data.test.cuts) return `${by}; the runs are too few to hold any out as a test.`;
  return `${by}; fitted to the smaller runs alone, it missed the ${data.test.runs} larger ones, `
    + `up to ${times(data.test.reach)}x the compute, by ${data.test.missed}.`;
}
// What is most likely to make the answer wrong: the first of analysis.planning.answer.doubts.
function doubt(found) {
  const {extrapolation: far, doubts} = found;
  if (doubts.length) return unreliable(doubts[0]);
  const C = far.beyond.C, {test} = data;
  if (!test.cuts) return 'the law was not tested on larger runs';
  if (C > test.reach)
    return `the law was tested up to ${times(test.reach)} times the compute, and this is `
      + `${times(C)} times`;
  const near = found.rivals.filter(
    each => each.found && each.error <= test.similar * test.error);
  const sizes = near.map(each => each.found.N.value), all = [found.N.value, ...sizes];
  if (near.length && Math.max(...all) >= test.different * Math.min(...all)) {
    if (near.length > 1)
      return `laws that predict about as well say ${count(Math.min(...sizes))} to `
        + `${count(Math.max(...sizes))} parameters`;
    const [{name, missed, found: {N, D}}] = near;
    return `${name}, which missed the larger runs by ${missed}, says `
      + `${count(N.value)} parameters on ${count(D.value)} tokens`;
  }
  const [shape] = found.shapes.outside;
  if (shape) return `its shape is outside those of the runs (${shape})`;
  if (found.unique * 1.005 < found.D.value)
    return `D is ${general(found.D.value / found.unique)} epochs of the unique tokens, whose worth `
      + 'is that of other work';
  const N = found.N.value / data.ranges.N[1], D = found.D.value / data.ranges.D[1];
  if (Math.max(N, D) > data.doubts.longer) {
    const parts = [];
    if (N > data.doubts.longer) parts.push(`${times(N)} times as many parameters`);
    if (D > data.doubts.longer) parts.push(`${times(D)} times as many tokens`);
    return `it takes ${parts.join(' and ')} as any run`;
  }
  const B = found.recipe.beyond.B || 1, {B: batch, sources} = data.recipe;
  if (B > data.doubts.longer) {
    const size = found.recipe.B > batch.range[1] ? 'larger' : 'smaller';
    return `its batches are ${times(B)} times ${size} than those of the runs`;
  }
  if (!data.doubts.searched) {
    const whose = sources.lr.includes('of these runs') ? 'these runs' : 'other work';
    return `its learning rate follows the rule of ${whose} and was not searched`;
  }
  return data.doubts.one_seed ? 'every run has the same seed, so their noise is unknown' : '';
}
function unreliable({code, text}) {
  if (code === 'unreliable_extrapolation') return `this is ${text}`;
  if (text === 'not converged') return 'the fit of the law did not converge';
  return text.replace(/^(?:not identified|at bound): (.*)$/, 'these runs do not determine $1')
    .replace(/^wrong sign: (.*)$/, '$1 of the law has the wrong sign');
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
  return words;
}
