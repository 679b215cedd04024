// The sections below the answer: the plans as cards, the same request under every law, and what
// other sizes cost. The page has them for its first question (plan_cards.py, deviating.py).

const live = (at, key) => at && at.querySelector(`[data-of="${key}"]`);
function fill(at, key, markup) {  // numbers as HTML; words from elsewhere go through `tell`
  const found = live(at, key);
  if (!found) return;
  if (found.innerHTML !== markup) found.innerHTML = markup;
  const row = found.closest('dl > div');
  if (row) row.hidden = !markup;
}
function tell(at, key, text) {
  const found = live(at, key);
  if (found && found.textContent !== text) found.textContent = text;
}
function budget(C) {  // plan_cards.budget_words
  const more = C / data.start.largest;
  return more > 1.01 ? `${times(more)} times the compute of the largest run` : `${number(C)} FLOPs`;
}
function origin(found, name) {  // analysis.planning.recipe.Recipe.origin
  const far = found.recipe.beyond[name] || 1;
  return data.recipe.sources[name]
    + (far > data.extrapolation.inside ? `; ${times(far)}x beyond the runs` : '');
}
function bytes(x) {
  return x >= 1e9 ? `${general(x / 1e9)} GB` : `${general(x / 1e6)} MB`;
}

function drawCard(name, found) {
  const card = document.getElementById(name);
  if (!card) return;
  if (!found) {
    for (const each of card.querySelectorAll('[data-of]')) each.textContent = '';
    tell(card, 'title', 'No plan for this question');
    return;
  }
  const {N, D, C, L, ratio, recipe, shapes, doubts} = found, [kind, text] = mark(found);
  const shape = model => model
    ? `${model.layers} layers, width ${model.width}, ${model.heads} heads` : '';
  const {memory} = shapes;
  const markups = {
    title: found.asked === 'ND' ? 'The run as pinned' : budget(C.value),
    mark: `<span class="mark ${kind}">${text}</span>`,
    N: spread(N, count, VAST), D: spread(D, count, VAST), ratio: spread(ratio, number),
    C: `${spread(C, number)} FLOPs`, L: `${spread(L, loss, VAST_LOSS)} nats/token`,
    B: `${count(recipe.B)} tokens`, S: count(recipe.S), lr: number(recipe.lr),
    shape: shape(shapes.model), kin: shape(shapes.kin),
    memory: memory ? `${bytes(memory.states)}: at least `
      + memory.gpus.map(([gpu, count]) => `${count} ${gpu}`).join(' or ') : '',
  };
  for (const [key, markup] of Object.entries(markups)) fill(card, key, markup);
  tell(card, 'doubts', sentenceOf(doubts.map(each => each.text).join('; ')));
  for (const key of ['B', 'lr']) fill(card, `${key}-source`, origin(found, key));
  live(card, 'notes').replaceChildren(...model.notes(found).map(line => {
    const item = document.createElement('li');
    item.textContent = line;
    return item;
  }));
}

function drawLaws(found) {
  const planned = {[data.test.name]: found};
  for (const each of found.rivals) planned[each.name] = each.found;
  for (const name of document.querySelectorAll('[data-law]')) {
    const row = name.closest('tr'), own = planned[name.dataset.law];
    for (const key of ['C', 'N', 'D', 'L']) if (!own) fill(row, key, '\u2013');
    tell(row, 'remark', !own ? 'no plan' : own.doubts.length ? 'not supported' : '');
    if (!own) continue;
    fill(row, 'C', number(own.C.value));
    for (const key of ['N', 'D']) fill(row, key, spread(own[key], count, VAST));
    fill(row, 'L', spread(own.L, loss, VAST_LOSS));
  }
  return Object.entries(planned).filter(([, own]) => own).map(([name, {N, D, L}]) => (
    {name, N: N.value, D: D.value, L: L.value, low: L.low, high: L.high}));
}

function drawPrices(found) {
  const section = document.getElementById('deviating');
  if (!section) return null;
  fill(section, 'budget', budget(found.C.value));
  const rows = model.sizes(found.best);
  for (const {factor, N, D, L, over, price} of rows) {
    const name = document.querySelector(`[data-factor="${factor}"]`), row = name.closest('tr');
    const ratio = ({value, low, high}) => ({value: value - 1, low: low - 1, high: high - 1});
    fill(row, 'N', count(N));
    fill(row, 'D', D > 0 ? count(D) : '\u2013');
    fill(row, 'L', loss(L));
    fill(row, 'tokens', price.D < Infinity ? count(price.D) : '\u2013');
    if (factor === 1) continue;
    fill(row, 'over', spread(ratio(over), signed));
    fill(row, 'price', price.value === Infinity ? 'no amount of data reaches it'
      : spread(price, number).replace(' <', '× <'));
    const {value, low, high} = price;
    Object.assign(row.dataset, {factor, value, low, high, tokens: price.D, over: over.value});
    Object.assign(row.dataset, {overLow: over.low, overHigh: over.high});
  }
  return model.curve(found.best);
}

// The figures of the page follow the event `compared`.
function drawSections(found) {
  const {served, unique} = found || {};
  drawCard('plan-0', found);
  drawCard('plan-1',
    found && model.plan('C', data.next * found.C.value, {served, unique}));
  if (!found) return;
  const laws = drawLaws(found), curve = drawPrices(found);
  document.dispatchEvent(new CustomEvent('compared', {detail: {
    laws, curve, flat: percent(data.flat),
    budget: budget(found.C.value).replace(/<sup>(.*)<\/sup>/, '^$1'),
  }}));
}
