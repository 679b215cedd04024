// A figure on a canvas: axes, points that stand for runs, and what a figure draws of its own.
'use strict';
const SUPER = '⁰¹²³⁴⁵⁶⁷⁸⁹';
const COUNTED = new Set(['N', 'D', 'B', 'S']);

function superscript(power) {
  return (power < 0 ? '⁻' : '') + [...String(Math.abs(power))].map(d => SUPER[d]).join('');
}
// Three significant digits: 3.06, 976k, 1.49 × 10¹⁴.
function shown(value, name = '') {
  if (value === null || value === undefined) return '';
  if (typeof value !== 'number') return String(value);
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (COUNTED.has(name) && size >= 1e3)
    for (const [unit, scale] of [['T', 1e12], ['B', 1e9], ['M', 1e6], ['k', 1e3]])
      if (size >= scale * 0.9995) return String(Number((value / scale).toPrecision(3))) + unit;
  if (size >= 1e5 || size < 1e-4) {
    const [mantissa, power] = value.toExponential(2).split('e');
    return Number(mantissa) + ' × 10' + superscript(Number(power));
  }
  if (name === 'L' && size < 100) return value.toPrecision(3);
  return (size >= 1000 ? String(Math.round(value)) : String(Number(value.toPrecision(3))))
    .replace('-', '−');
}
function tickText(value, log) {
  const power = Math.log10(Math.abs(value));
  if (log && (power >= 3.99 || power <= -3.01)) {
    const whole = Math.floor(power + 1e-9), mantissa = value / 10 ** whole;
    const lead = Math.abs(mantissa - 1) < 1e-6 ? '' : Number(mantissa.toPrecision(2)) + '·';
    return lead + '10' + superscript(whole);
  }
  return String(Number(value.toPrecision(6))).replace('-', '−');
}
function linearTicks(low, high, most) {
  const rough = (high - low) / most, scale = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(k => k * scale).find(k => k >= rough * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++)
    ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
}
function logTicks(low, high, most) {
  const decades = Math.log10(high / low);
  if (decades < 0.8) return linearTicks(low, high, most).filter(tick => tick > 0);
  const every = decades > most ? Math.ceil(decades / most) : 1;
  const steps = decades > most / 2 ? [1] : decades > most / 3.5 ? [1, 3] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    if (power % every === 0)
      for (const step of steps) {
        const tick = step * 10 ** power;
        if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
      }
  return ticks;
}
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
}

class Plot {
  // spec: {x, y: {label, log, range()}, points(): {run, x, y}, behind(plot), below(plot),
  //   above(plot), dot}; the runs, drawn by `behind` and as points, are the same at every answer.
  constructor(canvas, spec, state) {
    Object.assign(this, {canvas, spec, state, drag: null, rest: 0});
    canvas.plot = this;  // for tests, and for those who look at the page's console
    for (const name of ['still', 'lines', 'marks']) this[name] = document.createElement('canvas');
    canvas.addEventListener('pointermove', event => this.moved(event));
    canvas.addEventListener('pointerleave', () => { if (!this.drag) state.hover(-1); });
    canvas.addEventListener('pointerdown', event => {
      this.drag = {from: this.at(event), to: this.at(event)};
      canvas.setPointerCapture(event.pointerId);  // a drag may end outside
    });
    canvas.addEventListener('pointerup', event => this.released(event));
    canvas.addEventListener('pointercancel', () => { this.drag = null; this.overlay(); });
    canvas.addEventListener('keydown', event => this.pressed(event));
    new ResizeObserver(() => {
      if (canvas.clientWidth !== this.width || canvas.clientHeight !== this.height) this.draw();
    }).observe(canvas);
  }
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }
  moved(event) {
    const here = this.at(event);
    if (this.drag) {
      this.drag.to = here;
      this.overlay();
    } else this.state.hover(this.nearest(...here));
  }
  released(event) {
    if (!this.drag) return;
    const {from} = this.drag, to = this.at(event);
    this.drag = null;
    if (Math.hypot(from[0] - to[0], from[1] - to[1]) > 6) this.state.brush(this.inside(from, to));
    else this.state.pin(this.nearest(...to));
    this.overlay();
  }
  pressed(event) {
    const runs = this.drawn.filter(point => this.state.visible(point.run));
    runs.sort((a, b) => a.px - b.px || a.py - b.py);
    let k = runs.findIndex(point => point.run === this.state.hovered);
    if (event.key === 'ArrowRight' || event.key === 'ArrowDown') k = Math.min(k + 1, runs.length - 1);
    else if (event.key === 'ArrowLeft' || event.key === 'ArrowUp') k = Math.max(k - 1, 0);
    else if (event.key === 'Home') k = 0;
    else if (event.key === 'End') k = runs.length - 1;
    else if (event.key === 'Enter' || event.key === ' ') this.state.pin(this.state.hovered);
    else if (event.key === 'Escape') this.state.clear();
    else return;
    event.preventDefault();
    if (runs[k] && event.key !== 'Escape') this.state.hover(runs[k].run);
  }
  nearest(px, py) {
    let best = -1, least = 22 ** 2;
    for (const point of this.drawn || []) {
      const off = (point.px - px) ** 2 + (point.py - py) ** 2;
      if (off < least && this.state.visible(point.run)) [best, least] = [point.run, off];
    }
    return best;
  }
  inside([x0, y0], [x1, y1]) {
    const within = point => point.px >= Math.min(x0, x1) && point.px <= Math.max(x0, x1)
      && point.py >= Math.min(y0, y1) && point.py <= Math.max(y0, y1);
    return new Set(this.drawn.filter(within).map(point => point.run));
  }
  scale(axis, range, from, to) {
    const f = axis.log ? Math.log : value => value;
    const [low, high] = range.map(f), slope = (to - from) / ((high - low) || 1);
    const place = value => from + (f(value) - low) * slope;
    place.ofScaled = scaled => from + (scaled - low) * slope;
    return place;
  }
  // Draws everything; hovering only draws over it.
  draw() {
    clearTimeout(this.rest);
    this.rest = 0;
    const {canvas, spec} = this, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width || !height) return;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    for (const each of [canvas, this.still, this.lines, this.marks])
      [each.width, each.height] = [width * ratio, height * ratio];
    Object.assign(this, {width, height, ratio, left: spec.left || 52, right: 10, top: 10, bottom: 40});
    this.font = '12px system-ui, sans-serif';
    this.place();
    this.drawn = spec.points ? spec.points().map(
      point => ({...point, px: this.X(point.x), py: this.Y(point.y)})) : [];
    this.runsAt = [this.X, this.Y];
    if (spec.behind) this.clipped(this.penOf(this.lines), pen => spec.behind(this, pen));
    this.clipped(this.penOf(this.marks), pen => this.dots(pen));
    this.compose();
  }
  // Draws what the answer moves; the runs are moved and stretched as they are, and drawn again when
  // the answer rests.
  follow() {
    if (!this.pen) return;
    const before = [...this.xRange, ...this.yRange];
    this.place();
    this.compose();
    if ([...this.xRange, ...this.yRange].every((end, k) => end === before[k]) && !this.rest) return;
    clearTimeout(this.rest);
    this.rest = setTimeout(() => this.draw(), 200);
  }
  place() {
    const {spec, width, height} = this;
    this.xRange = spec.x.range();
    this.yRange = spec.y.range();
    this.X = this.scale(spec.x, this.xRange, this.left, width - this.right);
    this.Y = this.scale(spec.y, this.yRange, height - this.bottom, this.top);
  }
  penOf(layer) {
    const pen = layer.getContext('2d');
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.font = this.font;
    return pen;
  }
  compose() {
    const {spec, width, height} = this, pen = this.pen = this.penOf(this.still);
    pen.clearRect(0, 0, width, height);
    this.axes(pen);
    const [x, wide] = this.stretch(this.runsAt[0], this.X), [y, high] = this.stretch(this.runsAt[1], this.Y);
    const runs = layer => pen.drawImage(layer, x, y, width * wide, height * high);
    this.clipped(pen, () => {
      runs(this.lines);
      if (spec.below) spec.below(this, pen);
      runs(this.marks);
    });
    this.overlay();
  }
  // Where the origin of a layer drawn at the scale `from` lies at the scale `to`, and its size.
  stretch(from, to) {
    const [a, b] = [from.ofScaled(0), from.ofScaled(1)], [c, d] = [to.ofScaled(0), to.ofScaled(1)];
    const size = (d - c) / (b - a);
    return [c - a * size, size];
  }
  clipped(pen, draw) {
    pen.save();
    pen.beginPath();
    pen.rect(this.left, this.top - 6, this.width - this.left - this.right + 6,
      this.height - this.top - this.bottom + 6);
    pen.clip();
    draw(pen);
    pen.restore();
  }
  dots(pen) {
    const many = this.drawn.length > 2000, radius = this.spec.dot || (many ? 2 : 4);
    for (const point of this.drawn) {
      pen.globalAlpha = this.state.visible(point.run) ? (many ? 0.7 : 0.95) : 0.12;
      pen.fillStyle = this.state.colour(point.run);
      if (many) {  // squares, which are drawn several times as fast
        pen.fillRect(point.px - radius, point.py - radius, 2 * radius, 2 * radius);
        continue;
      }
      pen.beginPath();
      pen.arc(point.px, point.py, radius, 0, 7);
      pen.fill();
      if (this.spec.ringed && this.spec.ringed(point.run)) {
        pen.strokeStyle = colour('ink');
        pen.lineWidth = 1;
        pen.beginPath();
        pen.arc(point.px, point.py, radius + 2.5, 0, 7);
        pen.stroke();
      }
    }
    pen.globalAlpha = 1;
  }
  axes(pen) {
    const {spec, left, width, height} = this, base = height - this.bottom;
    pen.strokeStyle = colour('line');
    pen.fillStyle = colour('muted');
    pen.lineWidth = 1;
    pen.textAlign = 'center';
    pen.textBaseline = 'top';
    const across = Math.max(2, Math.floor((width - left) / 75));
    const ticksX = spec.x.log ? logTicks(...this.xRange, across) : linearTicks(...this.xRange, across);
    for (const tick of ticksX) {
      const x = Math.round(this.X(tick)) + 0.5;
      this.line(pen, x, this.top, x, base);
      pen.fillText(tickText(tick, spec.x.log), x, base + 5);
    }
    pen.textAlign = 'right';
    pen.textBaseline = 'middle';
    const up = Math.max(3, Math.floor(height / 55));
    const ticksY = spec.y.ticks || (spec.y.log ? logTicks(...this.yRange, up)
      : linearTicks(...this.yRange, up));
    if (!spec.y.hidden) for (const tick of ticksY) {
      const y = Math.round(this.Y(tick)) + 0.5;
      this.line(pen, left, y, width - this.right, y);
      pen.fillText(tickText(tick, spec.y.log), left - 6, y);
    }
    pen.fillStyle = colour('ink');
    pen.textAlign = 'center';
    pen.textBaseline = 'alphabetic';
    pen.fillText(spec.x.label(), (left + width - this.right) / 2, height - 5);
    if (!spec.y.label) return;
    pen.save();
    pen.translate(12, (this.top + base) / 2);
    pen.rotate(-Math.PI / 2);
    pen.fillText(spec.y.label, 0, 0);
    pen.restore();
  }
  line(pen, x0, y0, x1, y1) {
    pen.beginPath();
    pen.moveTo(x0, y0);
    pen.lineTo(x1, y1);
    pen.stroke();
  }
  path(pen, xs, ys) {
    pen.beginPath();
    xs.forEach((x, k) => { if (ys[k] !== null) pen.lineTo(this.X(x), this.Y(ys[k])); });
    pen.stroke();
  }
  band(pen, xs, low, high) {
    pen.beginPath();
    xs.forEach((x, k) => { if (low[k] !== null) pen.lineTo(this.X(x), this.Y(low[k])); });
    for (let k = xs.length - 1; k >= 0; k--)
      if (high[k] !== null) pen.lineTo(this.X(xs[k]), this.Y(high[k]));
    pen.closePath();
    pen.fill();
  }
  overlay() {
    if (!this.pen) return;
    const pen = this.canvas.getContext('2d'), {ratio} = this;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    pen.drawImage(this.still, 0, 0);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.font = this.font;
    this.clipped(pen, () => {
      if (this.spec.above) this.spec.above(this, pen);
      for (const run of [this.state.pinned, this.state.hovered]) if (run >= 0) this.mark(pen, run);
    });
    if (!this.drag) return;
    const {from, to} = this.drag;
    pen.strokeStyle = colour('accent');
    pen.strokeRect(from[0], from[1], to[0] - from[0], to[1] - from[1]);
  }
  mark(pen, run) {
    if (this.spec.trace) this.spec.trace(this, pen, run);
    pen.strokeStyle = colour('accent');
    pen.lineWidth = 2.5;
    for (const point of this.drawn) if (point.run === run) {
      pen.beginPath();
      pen.arc(point.px, point.py, 6.5, 0, 7);
      pen.stroke();
    }
  }
}
