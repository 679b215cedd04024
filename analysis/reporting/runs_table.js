// The table of runs: one page of rows at a time, however many runs there are.
class RunsTable {
  constructor(table, runs, state) {
    Object.assign(this, {table, runs, state, first: 0, sort: null, down: false, rows: new Map()});
    this.size = Number(table.dataset.rows);
    this.body = table.tBodies[0];
    this.names = [...table.tHead.rows[0].cells].map(cell => cell.dataset.name);
    this.words = null;
    this.find = id => document.getElementById(id);
    this.search = this.find('search');
    this.tag = this.find('tag');
    this.status = this.find('status');
    for (const cell of table.tHead.rows[0].cells) this.sortable(cell);
    for (const kind of ['input', 'change'])
      this.search.addEventListener(kind, () => this.filter());
    for (const choice of [this.tag, this.status])
      if (choice) choice.addEventListener('change', () => this.filter());
    this.find('runs-back').addEventListener('click', () => this.turn(-1));
    this.find('runs-next').addEventListener('click', () => this.turn(1));
    this.find('runs-clear').addEventListener('click', () => state.clear());
    this.body.addEventListener('mouseover', event => {
      const row = event.target.closest('tr');
      if (row) state.hover(Number(row.dataset.run));
    });
    this.body.addEventListener('mouseleave', () => state.hover(-1));
    this.body.addEventListener('click', event => {
      const row = event.target.closest('tr');
      if (row) state.pin(Number(row.dataset.run));
    });
    this.body.addEventListener('focusin', event => {
      state.hover(Number(event.target.closest('tr').dataset.run));
    });
  }
  cell(name, run) {
    if (name === 'run_id') return this.runs.id[run];
    if (name === 'status' || name === 'error') return this.runs[name][run];
    return this.runs.values[name][run];
  }
  sortable(cell) {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = cell.textContent;
    cell.replaceChildren(button);
    button.addEventListener('click', () => {
      this.down = this.sort === cell.dataset.name && !this.down;
      this.sort = cell.dataset.name;
      for (const other of cell.parentElement.cells) other.removeAttribute('aria-sort');
      cell.setAttribute('aria-sort', this.down ? 'descending' : 'ascending');
      this.first = 0;
      this.draw();
    });
  }
  // Which runs the words, the tag and the status select: null if all.
  filter() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(word => word);
    const tag = this.tag && this.tag.value, status = this.status && this.status.value;
    const tags = this.runs.values.tag || [];
    if (words.length) this.words ??= this.runs.id.map((_, k) => this.names.map(
      name => this.cell(name, k) ?? '').join(' ').toLowerCase());
    this.first = 0;
    this.state.select(!words.length && !tag && !status ? null : this.runs.id.map((_, k) =>
      (!tag || tags[k] === tag) && (!status || this.runs.status[k] === status)
      && words.every(word => this.words[k].includes(word))));
  }
  turn(by) {
    this.first = Math.max(0, this.first + by * this.size);
    this.draw();
  }
  draw() {
    const {runs, state} = this, chosen = [];
    for (let k = 0; k < runs.id.length; k++) if (state.visible(k)) chosen.push(k);
    if (this.sort) chosen.sort((a, b) => {
      const [x, y] = [this.cell(this.sort, a), this.cell(this.sort, b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return (x < y ? -1 : x > y ? 1 : 0) * (this.down ? -1 : 1);
    });
    if (this.first >= chosen.length) this.first = 0;
    const page = chosen.slice(this.first, this.first + this.size);
    this.rows = new Map(page.map(run => [run, this.row(run)]));
    this.body.replaceChildren(...this.rows.values());
    const last = this.first + page.length, all = runs.id.length;
    const some = chosen.length < all ? `${chosen.length} of ${all} runs` : `${all} runs`;
    this.find('runs-count').textContent = page.length < chosen.length
      ? `${some}, rows ${this.first + 1} to ${last}` : some;
    this.find('runs-back').disabled = this.first === 0;
    this.find('runs-next').disabled = last >= chosen.length;
    this.find('runs-pages').hidden = chosen.length <= this.size;
    this.find('runs-clear').hidden = !state.brushed && state.pinned < 0;
    this.mark();
  }
  row(run) {
    const row = document.createElement('tr');
    row.dataset.run = run;
    this.names.forEach((name, column) => {
      const cell = row.insertCell(), value = this.cell(name, run);
      if (column === 0) {
        const button = document.createElement('button');
        button.type = 'button';
        button.textContent = value;
        cell.append(button);
      } else {
        cell.textContent = shown(value, name);
        if (typeof value === 'number') cell.className = 'number';
      }
    });
    if (this.runs.status[run] !== 'ok') row.classList.add('ended');
    return row;
  }
  mark() {
    for (const [run, row] of this.rows) {
      row.classList.toggle('marked', run === this.state.hovered || run === this.state.pinned);
      row.cells[0].firstChild.setAttribute('aria-pressed', String(run === this.state.pinned));
    }
  }
}
