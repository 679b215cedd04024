// Builds the figures of the page, and keeps them with the answer and the system's colours.
function paint() {
  colours = runs.values.N.map(N => N > 0 ? ofSize(N) : colour('muted'));
  const key = find('sizes');
  if (!key) return;
  key.style.background = `linear-gradient(to right, ${stops().join(',')})`;
}
function follow(detail) {
  if (!detail || !(detail.C > 0)) return;
  answer = detail;
  find('plot-hero').plot.follow();
}
// The planner compares laws and sizes at the chosen budget.
function compare({laws, curve, flat, budget}) {
  if (find('laws-words')) {
    disagree.splice(0, disagree.length, ...laws);
    find('plot-laws').plot.draw();
    const losses = laws.map(law => law.L);
    find('laws-words').textContent = `With ${budget}, the laws predict losses from `
      + `${shown(lowest(losses), 'L')} to ${shown(highest(losses), 'L')}.`;
  }
  if (!curve) return;
  offered = curve;
  const canvas = find('plot-deviation'), [low, high] = curve.flat;
  if (canvas.plot) canvas.plot.follow();
  else plots.push(new Plot(canvas, specs.deviation, state));
  find('deviation-words').textContent = `With ${budget}, sizes from ${shown(low, 'N')} to `
    + `${shown(high, 'N')} parameters are within ${flat} of the best loss (green). The band is `
    + 'the 95 % interval, and the dashed line is the chosen size.';
}
const table = new RunsTable(find('runs'), runs, state);
paint();
for (const [name, spec] of Object.entries(specs)) {
  const canvas = find(`plot-${name}`);
  if (!canvas || !spec || name === 'deviation') continue;  // it has no curve yet
  plots.push(new Plot(canvas, spec, state));
}
state.redraw();
document.addEventListener('answer', event => follow(event.detail));
document.addEventListener('compared', event => compare(event.detail));
if (against) against.addEventListener('change', () => find('plot-hero').plot.draw());
dark.addEventListener('change', () => { paint(); state.redraw(); });
find('chosen-close').addEventListener('click', () => state.clear());
document.addEventListener('keydown', event => { if (event.key === 'Escape') state.clear(); });
performance.mark('drawn');
document.documentElement.dataset.drawn = String(Math.round(performance.now()));
