// Builds the figures of the page, and keeps them with the answer and the system's colours.
function paint() {
  colours = runs.values.N.map(N => N > 0 ? ofSize(N) : colour('muted'));
  const key = find('sizes');
  if (!key) return;
  key.style.background = `linear-gradient(to right, ${stops().join(',')})`;
}
function words() {
  const text = find('deviation-words');
  if (!text || !offered) return;
  const [low, high] = flat();
  text.textContent = `At ${shown(answer.C, 'C')} FLOPs, sizes from ${shown(low, 'N')} to `
    + `${shown(high, 'N')} parameters are within ${shown(100 * price.flat)} % of the best loss.`;
}
function follow(detail) {
  if (!detail || !(detail.C > 0)) return;
  answer = detail;
  if (price) {
    offered = sizesAt(answer.C);
    words();
  }
  for (const name of ['hero', 'deviation']) {
    const canvas = find(`plot-${name}`);
    if (canvas && canvas.plot) canvas.plot.follow();
  }
}
const table = new RunsTable(find('runs'), runs, state);
paint();
for (const [name, spec] of Object.entries(specs)) {
  const canvas = find(`plot-${name}`);
  if (!canvas || !spec) continue;
  plots.push(new Plot(canvas, spec, state));
}
words();
state.redraw();
document.addEventListener('answer', event => follow(event.detail));
if (against) against.addEventListener('change', () => find('plot-hero').plot.draw());
dark.addEventListener('change', () => { paint(); state.redraw(); });
find('chosen-close').addEventListener('click', () => state.clear());
document.addEventListener('keydown', event => { if (event.key === 'Escape') state.clear(); });
performance.mark('drawn');
document.documentElement.dataset.drawn = String(Math.round(performance.now()));
