/* The scheme explorer: which blocks of a network call their stage's attention module, and what that buys.
 *
 * One ES module, used twice: by anywidget beside a kernel, and in a page by a host of ten lines that answers get, set,
 * on, off and save_changes. Model: name, table, show, scheme, linked (the page's address holds the scheme), live (Python
 * scores what is not in the table: `asked` goes there, `answers` come back). No text is ever parsed as HTML.
 */

const SVG = /^(svg|g|rect|line|path|circle|text)$/;
const { exp, floor, imul, max, min, sqrt, tanh } = Math;
const STEPS = 300;
const RATES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1];
let instances = 0;

const sum = (values) => values.reduce((total, value) => total + value, 0);
const clamp = (x, low, high) => min(max(x, low), high);
const known = (value) => value !== null && value !== undefined;
const percent = (value) => `${value.toFixed(2)} %`;
const whole = (value) => Math.round(value).toLocaleString("en-US");
const list = (length, make) => Array.from({ length }, (_, i) => make(i));
const range = (values, share) => {
	const [low, high] = values.length ? [min(...values), max(...values)] : [0, 1];
	const pad = (high - low) * share || 1;
	return [low - pad, high + pad];
};

/** Set attributes, and listeners where a value is a function; false, null and undefined leave it out. */
function set(element, attributes) {
	for (const [key, value] of Object.entries(attributes)) {
		if (typeof value === "function") element.addEventListener(key, value);
		else if (known(value) && value !== false) element.setAttribute(key, value === true ? "" : value);
	}
}

/** An element such as "div.class", its attributes (optional) and children; texts become text nodes. */
function h(name, ...content) {
	const [tag, kind] = name.split(".");
	const element = SVG.test(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
	set(element, { class: kind, ...(content[0]?.constructor === Object ? content.shift() : {}) });
	element.append(...content.flat(2).filter(known));
	return element;
}

const card = (title, ...children) => h("section.x-card", h("div.x-title", title), children);
const row = (...children) => h("div.x-row", children);
const button = (text, click) => h("button", { type: "button", click }, text);
const slider = (attributes) => h("input", { type: "range", step: 1, ...attributes });
const legend = (...marks) => row(marks.map(([kind, text]) => h(`span.x-swatch ${kind}`, text)));

/* ---- the table: what is known of each scheme ---- */

export class Table {
	constructor(raw) {
		Object.assign(this, { raw, stages: raw.stages, blocks: sum(raw.stages), points: new Map() });
		for (const key of ["supernet", "extra_parameters", "extra_macs", "alone", "time"]) {
			const values = raw[key] ?? {};
			const bits = (name) => (Array.isArray(values) ? this.bitsOf(+name) : name.replaceAll("-", ""));
			for (const [name, value] of Object.entries(values)) this.point(bits(name))[key] = value;
		}
		this.sort();
	}

	/** The bits of the scheme that stands at an index of the table, the first block in front. */
	bitsOf(index) {
		return index.toString(2).padStart(this.blocks, "0");
	}

	textOf(bits) {
		let start = 0;
		return this.stages.map((blocks) => bits.slice(start, (start += blocks))).join("-");
	}

	/** The bits of a text such as 10-00-01, or null where it is none of this network's schemes. */
	parse(text) {
		const bits = String(text).replaceAll("-", "");
		return /^[01]+$/.test(bits) && bits.length === this.blocks && this.textOf(bits) === text ? bits : null;
	}

	/** What is known of a scheme; a value that was not measured is undefined or null. */
	point(bits) {
		if (!this.points.has(bits)) {
			const connected = bits.replaceAll("0", "").length;
			this.points.set(bits, { bits, text: this.textOf(bits), connected, sparsity: 1 - connected / this.blocks });
		}
		return this.points.get(bits);
	}

	/** Order the scored schemes: most accurate first, then fewest connections, then by their bits. */
	sort() {
		const better = (a, b) => b.supernet - a.supernet || a.connected - b.connected || (a.bits < b.bits ? -1 : 1);
		this.ranked = [...this.points.values()].filter((point) => known(point.supernet)).sort(better);
		this.place = new Map(this.ranked.map((point, index) => [point, index]));
		this.complete = this.ranked.length === 2 ** this.blocks;
	}

	/** 1 for the most accurate; equal accuracies share a rank. */
	rank(point) {
		return this.ranked.findIndex((other) => other.supernet === point.supernet) + 1;
	}

	objective(point, weight) {
		return (this.raw.lambda_val ?? 1) * point.supernet + weight * point.sparsity;
	}

	best(weight, among = this.ranked) {
		const score = (point) => this.objective(point, weight);
		return among.reduce((best, point) => (score(best) >= score(point) ? best : point));
	}
}

/** The points that no other beats in both: more y for no more x. */
export function paretoFront(points, x, y) {
	let best = -Infinity;
	const ordered = [...points].sort((a, b) => x(a) - x(b) || y(b) - y(a));
	return ordered.filter((point) => y(point) > best && ((best = y(point)), true));
}

/* ---- the controller: the step of ean_lib.controller in mode "corrected" ---- */

/** Uniform numbers in [0, 1), the same for the same seed (mulberry32). */
export function randomNumbers(seed) {
	let state = (seed * 2654435761 + 12345) | 0;
	return () => {
		state = (state + 0x6d2b79f5) | 0;
		let t = imul(state ^ (state >>> 15), 1 | state);
		t = (t + imul(t ^ (t >>> 7), 61 | t)) ^ t;
		return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
	};
}

class Adam {
	constructor(values, rate, beta) {
		Object.assign(this, { values, rate, beta, time: 0, mean: values.map(() => 0), square: values.map(() => 0) });
	}

	step(gradient) {
		const { values, rate, beta, mean, square } = this;
		this.time += 1;
		const [one, two] = [1 - 0.9 ** this.time, sqrt(1 - beta ** this.time)];
		gradient.forEach((g, i) => {
			mean[i] = 0.9 * mean[i] + 0.1 * g;
			square[i] = beta * square[i] + (1 - beta) * g * g;
			values[i] -= ((rate / one) * mean[i]) / (sqrt(square[i]) / two + 1e-8);
		});
	}
}

/** Layers with ReLU between, all weights in one list: of each layer the matrix, row by row, then the bias. */
class Perceptron {
	constructor(widths, uniform, weights) {
		this.shapes = widths.slice(1).map((outputs, layer) => [widths[layer], outputs]);
		const initial = ([inputs, outputs]) => list((inputs + 1) * outputs, () => (2 * uniform() - 1) / sqrt(inputs));
		this.weights = weights ? [...weights] : this.shapes.flatMap(initial);
	}

	/** The activations of all layers, the input first. */
	forward(x) {
		const { weights, shapes } = this;
		const all = [x];
		let at = 0;
		shapes.forEach(([inputs, outputs], layer) => {
			const bias = at + inputs * outputs;
			const output = list(outputs, (o) => weights[bias + o] + sum(all[layer].map((value, i) => weights[at + o * inputs + i] * value)));
			all.push(layer + 1 < shapes.length ? output.map((value) => max(value, 0)) : output);
			at = bias + outputs;
		});
		return all;
	}

	/** Add to `gradient` what `slope`, the loss's gradient in the output, means for the weights. */
	backward(all, slope, gradient) {
		let at = this.weights.length;
		for (let layer = this.shapes.length - 1; layer >= 0; layer--) {
			const [inputs, outputs] = this.shapes[layer];
			at -= (inputs + 1) * outputs;
			const below = all[layer].map(() => 0);
			slope.forEach((d, o) => {
				gradient[at + inputs * outputs + o] += d;
				all[layer].forEach((value, i) => {
					gradient[at + o * inputs + i] += d * value;
					below[i] += d * this.weights[at + o * inputs + i];
				});
			});
			slope = below.map((value, i) => (all[layer][i] > 0 ? value : 0));
		}
	}
}

/** Random network distillation: how badly a learned network predicts a fixed random one at a scheme. */
class Novelty {
	constructor(blocks, uniform, weights = {}) {
		this.fixed = new Perceptron([blocks, 32, 32, 4 * blocks], uniform, weights.fixed);
		this.learned = new Perceptron([blocks, 32, 4 * blocks], uniform, weights.learned);
		this.adam = new Adam(this.learned.weights, 0.05, 0.999);
		this.errors = [];
	}

	/** The bonus of each scheme, in deviations of all errors so far (at least a tenth of their mean); then one training step. */
	bonus(schemes) {
		const gradient = this.learned.weights.map(() => 0);
		const errors = schemes.map((scheme) => {
			const target = this.fixed.forward(scheme).at(-1);
			const all = this.learned.forward(scheme);
			const difference = all.at(-1).map((value, i) => value - target[i]);
			this.learned.backward(all, difference.map((d) => 2 * d), gradient);
			return sum(difference.map((d) => d * d));
		});
		this.adam.step(gradient);
		this.errors.push(...errors);
		const mean = sum(this.errors) / this.errors.length;
		const deviation = sqrt(sum(this.errors.map((error) => (error - mean) ** 2)) / this.errors.length);
		return errors.map((error) => (deviation > 0 ? error / max(deviation, mean / 10) : 0));
	}
}

export class Controller {
	/** `uniform()` draws the samples and `pick(n)` the replayed batch; `weights` are of the bonus's two networks. */
	constructor(blocks, { seed = 0, rate = 0.1, lambdaRnd = 0.1, uniform, pick, weights } = {}) {
		const [own, replaying, initial] = [0, 1_000_003, 2_000_003].map((stream) => randomNumbers(seed + stream));
		const table = list(blocks, () => 0);
		Object.assign(this, { table, lambdaRnd, uniform: uniform ?? own, baseline: null, steps: 0, memory: [] });
		this.pick = pick ?? ((count) => floor(replaying() * count));
		this.adam = new Adam(table, rate, 0.9);
		this.novelty = new Novelty(blocks, initial, weights);
	}

	/** z = 5 tanh(t / 5): the log-odds of connecting each block are bounded, so that sampling never dies out. */
	logits() {
		return this.table.map((t) => 5 * tanh(t / 5));
	}

	probabilities() {
		return this.logits().map((z) => 1 / (1 + exp(-z)));
	}

	sample() {
		const p = this.probabilities();
		return list(3, () => p.map((probability) => (this.uniform() < probability ? 1 : 0)));
	}

	logProbability(scheme) {
		return sum(this.logits().map((z, i) => -Math.log1p(exp(scheme[i] ? -z : z))));
	}

	/** One step of Adam up Σ weight · log π(scheme), whose gradient in the logits is Σ weight · (scheme − p). */
	ascend(schemes, weights) {
		const p = this.probabilities();
		const slope = (l) => 1 - tanh(this.table[l] / 5) ** 2;
		this.adam.step(p.map((own, l) => slope(l) * sum(schemes.map((scheme, i) => weights[i] * (own - scheme[l])))));
	}

	/** Learn from the objectives (λ_val · value + λ_spa · sparsity, percent) of the schemes just sampled. */
	update(schemes, objectives) {
		const count = schemes.length;
		const probabilities = this.probabilities();
		const old = schemes.map((scheme) => this.logProbability(scheme));
		const novelty = this.lambdaRnd > 0 ? this.novelty.bonus(schemes) : schemes.map(() => 0);
		const rewards = objectives.map((objective, i) => objective + this.lambdaRnd * novelty[i]);
		this.memory = [...this.memory, [schemes, old, rewards]].slice(-30);
		const mean = sum(rewards) / count;
		const baseline = this.baseline ?? mean;
		this.baseline = 0.95 * baseline + 0.05 * mean;
		this.ascend(schemes, rewards.map((reward) => (reward - baseline) / count));
		if (this.steps >= 10) {
			const [replayed, before, values] = this.memory[this.pick(this.memory.length)];
			const weights = replayed.map((scheme, i) => {
				const ratio = exp(this.logProbability(scheme) - before[i]);
				const advantage = values[i] - this.baseline;
				const clipped = clamp(ratio, 0.9, 1.1) * advantage < ratio * advantage;
				return clipped ? 0 : (0.1 * ratio * advantage) / count;
			});
			this.ascend(replayed, weights);
		}
		this.steps += 1;
		return { probabilities, rewards, baseline };
	}
}

/** A search of a table: recorded, or made step by step; `history` has what is drawn. */
export class Search {
	constructor(table, { lambdaSpa = 2, rate, lambdaRnd, seed } = {}) {
		Object.assign(this, { table, lambdaSpa, total: STEPS, history: [], seen: new Set(), best: null });
		this.controller = new Controller(table.blocks, { rate, lambdaRnd, seed });
	}

	static recorded(table) {
		const { lambda_spa, schemes, probabilities, rewards, baseline } = table.raw.search;
		const search = new Search(table, { lambdaSpa: lambda_spa });
		search.total = schemes.length;
		schemes.forEach((indices, step) => {
			const points = indices.map((index) => table.point(table.bitsOf(index)));
			const p = probabilities[step].map((value) => value / 1000);
			search.note(points, { probabilities: p, rewards: rewards[step], baseline: baseline[step] });
		});
		return search;
	}

	note(points, record) {
		for (const point of points) this.seen.add(point);
		this.best = this.table.best(this.lambdaSpa, [this.best ?? points[0], ...points]);
		this.history.push({ ...record, points, best: this.best, seen: this.seen.size });
	}

	step() {
		const bits = this.controller.sample();
		const points = bits.map((scheme) => this.table.point(scheme.join("")));
		this.note(points, this.controller.update(bits, points.map((point) => this.table.objective(point, this.lambdaSpa))));
	}
}

/* ---- drawing ---- */

/** About `count` round numbers from low to high. */
function ticks(low, high, count) {
	const raw = (high - low) / count || 1;
	const power = 10 ** floor(Math.log10(raw));
	const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= raw * 0.999);
	const first = Math.ceil(low / step - 1e-9);
	return list(floor(high / step + 1e-9) - first + 1, (i) => (first + i) * step);
}

/** Draw the axes of a chart, in pixels; give its scales and the layer for its marks. */
function axes(svg, width, height, [x0, x1, marks, xLabel], [y0, y1], yLabel) {
	const [left, right, top, bottom] = [56, 16, 10, 42];
	const x = (value) => left + ((value - x0) / (x1 - x0 || 1)) * (width - left - right);
	const y = (value) => height - bottom - ((value - y0) / (y1 - y0 || 1)) * (height - top - bottom);
	const layer = h("g");
	const label = (text, place, kind = "") => h(`text.x-label ${kind}`, place, text);
	const number = (value) => value.toLocaleString("en-US", { maximumSignificantDigits: 6 });
	set(svg, { viewBox: `0 0 ${width} ${height}`, height });
	svg.replaceChildren(
		...ticks(y0, y1, 5).flatMap((tick) => [
			h("line.x-grid", { x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
			label(number(tick), { x: left - 6, y: y(tick) + 4 }, "x-end"),
		]),
		...marks.map((tick) => label(number(tick), { x: x(tick), y: height - bottom + 16 })),
		label(xLabel, { x: (left + width - right) / 2, y: height - 6 }),
		label(yLabel, { transform: `translate(11 ${(top + height - bottom) / 2}) rotate(-90)` }),
		layer,
	);
	return { x, y, layer };
}

/** Call `draw(width)` whenever the width changes; gives a function that ends it. */
function onWidth(element, draw) {
	let last = 0;
	const observer = new ResizeObserver(() => {
		const width = floor(element.clientWidth);
		if (width && width !== last) draw((last = width));
	});
	observer.observe(element);
	return () => observer.disconnect();
}

/** Stages of blocks on the residual stream, and the module of each stage with a line to each connected block. */
class Network {
	constructor(app) {
		const { stages, raw } = app.table;
		Object.assign(this, { app, stages, blocks: [], modules: [] });
		const attention = String(raw.attention ?? "").toUpperCase().slice(0, 5);
		this.names = attention ? [`one shared ${attention} module`, `shared ${attention}`] : ["one shared module", "shared"];
		const name = "Blocks of the network. Arrow keys move, space connects or disconnects.";
		const keydown = (event) => this.keys(event);
		this.element = h("div.x-network", { role: "group", "aria-label": name, keydown }, stages.map((count, stage) => this.stage(count, `stage ${stage + 1}`, stage)));
		this.close = onWidth(this.element, (width) => this.fit(width));
	}

	stage(count, title, stage) {
		const columns = min(count, 6);
		const width = 66 * columns;
		const rows = list(Math.ceil(count / 6), (i) => 22 + 128 * i);
		const svg = h("svg.x-stage", { viewBox: `0 0 ${width} ${22 + 128 * rows.length}`, role: "group", "aria-label": title, style: `--columns: ${columns}` });
		const text = (y) => ({ x: width / 2, y, "aria-hidden": "true" });
		svg.append(h("text.x-label", text(15), title));
		const explain = () => this.app.explain(() => `All connected blocks of ${title} call the same module, so its parameters are paid once.`);
		for (const top of rows) {
			const name = h("text", text(top + 103));
			const shape = h("g", { pointerenter: explain, click: explain }, h("rect", { x: 4, y: top + 88, width: width - 8, height: 30, rx: 6 }), name);
			this.modules.push({ shape, name, stage, columns });
			svg.append(h("line.x-stream", { x1: 0, x2: width, y1: top + 34, y2: top + 34 }), shape);
		}
		svg.append(...list(count, (i) => this.block(`${title}, block ${i + 1}`, stage, 66 * (i % 6) + 8, rows[floor(i / 6)])));
		return svg;
	}

	block(name, stage, x, top) {
		const number = this.blocks.length;
		const wire = h("line.x-wire", { x1: x + 25, x2: x + 25, y1: top + 55 });
		const digit = h("text.x-digit", { x: x + 25, y: top + 34 });
		const pointerenter = () => this.app.explain(() => this.explainBlock(number));
		const focus = () => {
			this.blocks.forEach(({ toggle }, i) => set(toggle, { tabindex: i === number ? 0 : -1 })); // the one that tab reaches
			pointerenter();
		};
		const click = () => this.app.toggle(number);
		const toggle = h("g.x-block", { role: "switch", tabindex: number ? -1 : 0, click, pointerenter, focus },
			h("rect.x-hit", { x: x - 8, y: top - 4, width: 66, height: 90 }),
			h("rect.x-ring", { x: x - 7, y: top - 1, width: 64, height: 60, rx: 9 }),
			h("rect.x-skip", { x: x - 4, y: top + 3, width: 58, height: 31, rx: 4 }),
			wire,
			h("rect.x-body", { x, y: top + 13, width: 50, height: 42, rx: 6 }),
			digit,
		);
		this.blocks.push({ toggle, wire, digit, top, name, stage });
		return toggle;
	}

	/** All stages in a row where a block is then wide enough for a finger, else stage below stage, in one scale. */
	fit(width) {
		const columns = this.stages.map((count) => min(count, 6));
		const all = width / sum(columns);
		const unit = min(all >= 33 ? all : width / max(...columns), 92);
		this.element.style.setProperty("--unit", `${unit}px`);
		this.element.style.setProperty("--zoom", 66 / unit); // texts keep their size
		for (const { name, columns } of this.modules) name.textContent = this.names[columns * unit > 165 ? 0 : 1];
	}

	keys(event) {
		const number = this.blocks.findIndex(({ toggle }) => toggle === event.target);
		if (number < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
		const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
		const move = moves[event.key];
		if (move) this.blocks[clamp(number + move, 0, this.blocks.length - 1)].toggle.focus();
		else if (event.key === " " || event.key === "Enter") this.app.toggle(number);
		else return;
		event.preventDefault();
	}

	explainBlock(number) {
		const { name, stage } = this.blocks[number];
		const on = `connected: its residual branch passes through the module of stage ${stage + 1} before it is added, x + M(f(x))`;
		return `S${name.slice(1)} is ${this.app.bits[number] === "1" ? on : "not connected: its residual branch is added as it is, x + f(x)"}.`;
	}

	update({ bits }) {
		this.blocks.forEach(({ toggle, wire, digit, top, name }, i) => {
			const on = bits[i] === "1";
			set(toggle, { "aria-checked": String(on), "aria-label": `${name}, ${on ? "connected" : "not connected"}` });
			set(wire, { y2: top + (on ? 88 : 74) });
			digit.textContent = bits[i];
		});
		for (const { shape, stage } of this.modules) {
			const used = this.blocks.some((block, i) => block.stage === stage && bits[i] === "1");
			set(shape, { class: used ? "x-module x-used" : "x-module" });
		}
	}
}

class Numbers {
	constructor(app) {
		Object.assign(this, { app, cells: {} });
		const cell = ([key, label], i) => {
			this.cells[key] = [h(i ? "dd.x-value" : "dd.x-value x-large"), h("dd.x-note")];
			return h("div", h("dt", label), this.cells[key]);
		};
		const group = (title, ...cells) => card(title, h("dl", cells.map(cell)));
		const on = group("What is on", ["connected", "Connected blocks"], ["scheme", "Connection scheme"]);
		this.copyButton = button("", () => this.copy());
		this.link = h("a", { hidden: !app.linked }, "Link");
		on.append(row(this.copyButton, this.link));
		const good = group("How good it is", ["supernet", "Accuracy in the supernet"], ["alone", "Accuracy trained alone"]);
		const cost = group("What it costs", ["extra_parameters", "Extra parameters"], ["extra_macs", "Extra multiply–adds per image"], ["time", "Extra inference time"]);
		this.element = h("div.x-cards", on, good, cost);
	}

	/** Copy the scheme, and select it, so that the reader can copy where a page must not. */
	copy() {
		const [text] = this.cells.scheme;
		const done = () => (this.copyButton.textContent = "Copied");
		getSelection().selectAllChildren(text);
		navigator.clipboard?.writeText(text.textContent).then(done, () => {});
	}

	update(point) {
		const { table, live, waiting, key } = this.app;
		const { supernet, alone, time } = point;
		const put = (name, value, note = "") => {
			const [large, small] = this.cells[name];
			const asked = live && name !== "alone" && name !== "time";
			large.textContent = value || (!asked ? "not measured" : waiting ? "working …" : "not scored");
			large.classList.toggle("x-missing", !value);
			small.textContent = value ? note : "";
		};
		const extra = (name, base) => {
			const share = `${((100 * point[name]) / base).toPrecision(2)} % of the backbone's ${base && whole(base)}`;
			put(name, known(point[name]) && `+${whole(point[name])}`, base ? share : "");
		};
		put("connected", `${point.connected} of ${table.blocks}`, `sparsity ${point.sparsity.toFixed(2)}`);
		put("scheme", point.text);
		put("supernet", known(supernet) && percent(supernet), this.app.ranked(point));
		const [mean, std, runs] = alone ?? [];
		const spread = known(std) && ` ± ${std.toFixed(2)}`;
		put("alone", alone && `${mean.toFixed(2)}${spread || ""} %`, spread ? `mean ± std of ${runs} runs` : "one run");
		extra("extra_parameters", table.raw.parameters);
		extra("extra_macs", table.raw.macs);
		const [increment, times] = time ?? [];
		put("time", time && `${increment < 0 ? "−" : "+"}${Math.abs(100 * increment).toFixed(1)} %`, `over the backbone, ${times > 1 ? `median of ${times} runs` : "one run"}`);
		set(this.link, { href: `#${key}=${point.text}` });
		this.copyButton.textContent = "Copy";
	}
}

const X = {
	connected: ["connected blocks", (point) => point.connected],
	extra_parameters: ["extra parameters", (point) => point.extra_parameters],
	time: ["extra inference time (%)", (point) => point.time && 100 * point.time[0]],
};
const Y = {
	supernet: ["accuracy in the supernet (%)", (point) => point.supernet],
	alone: ["accuracy trained alone (%)", (point) => point.alone?.[0]],
};

/** All schemes: accuracy against cost, with the Pareto front; a click or the slider of ranks chooses one. */
class Chart {
	constructor(app) {
		this.app = app;
		const pointermove = (event) => this.caption(this.nearest(event));
		const click = (event) => app.choose((this.nearest(event) ?? app.point).bits);
		this.svg = h("svg.x-chart", { role: "img", click, pointermove, pointerleave: () => this.caption() });
		this.text = h("p.x-note");
		const input = () => app.choose(app.table.ranked[this.slider.value - 1].bits);
		this.slider = slider({ min: 1, input });
		[this.axisY, this.axisX] = list(2, () => h("select", { change: () => this.draw() }));
		this.element = card("All schemes",
			row(h("label", "Show ", this.axisY), h("label", "against ", this.axisX)),
			this.svg,
			legend(["x-now", "this scheme"], ["x-front", "Pareto front"], ["x-any", "other schemes"]),
			this.text,
			h("label.x-wide", "Walk through the ranks in the supernet, best first", this.slider),
		);
		this.renew();
		this.close = onWidth(this.svg, (width) => ((this.width = width), this.draw()));
	}

	/** Offer the axes for which there are at least two numbers, and draw. */
	renew() {
		const points = [...this.app.table.points.values()];
		for (const [select, choices] of [[this.axisX, X], [this.axisY, Y]]) {
			const now = select.value;
			const shown = Object.entries(choices).filter(([, [, of]], i) => !i || points.filter((point) => known(of(point))).length > 1);
			select.replaceChildren(...shown.map(([value, [label]]) => h("option", { value, selected: value === now }, label)));
		}
		this.draw();
	}

	draw() {
		if (!this.width) return;
		const { table } = this.app;
		const columns = this.axisX.value === "connected";
		const [xLabel, x] = X[this.axisX.value];
		const [yLabel, y] = Y[this.axisY.value];
		const points = [...table.points.values()].filter((point) => known(x(point)) && known(y(point)));
		const [x0, x1] = columns ? [-0.5, table.blocks + 0.5] : range(points.map(x), 0.05);
		const marks = ticks(columns ? 0 : x0, x1, columns ? min(table.blocks, 17) + 1 : this.width < 420 ? 3 : 6);
		const scale = axes(this.svg, this.width, 300, [x0, x1, marks, xLabel], range(points.map(y), 0.07), yLabel);
		const front = paretoFront(points, x, y);
		// Schemes with equally many connections stand beside each other, so that none hides another.
		const beside = (point) => (columns && !front.includes(point) ? ((parseInt(point.bits, 2) * 0.618034) % 1) * 0.64 - 0.32 : 0);
		this.spots = new Map(points.map((point) => [point, { cx: scale.x(x(point) + beside(point)), cy: scale.y(y(point)) }]));
		const circles = (kind, some) => some.map((point) => h(`circle.${kind}`, { ...this.spots.get(point), r: points.length > 200 ? 3 : 4.5 }));
		const d = front.map((point) => this.spots.get(point)).map(({ cx, cy }, i) => (i ? `H${cx}V${cy}` : `M${cx} ${cy}`)).join("");
		this.mark = h("circle.x-now", { r: 7 });
		scale.layer.append(...circles("x-any", points), h("path.x-front", { d }), ...circles("x-front", front), this.mark);
		set(this.svg, { "aria-label": `${yLabel} of ${points.length} schemes against ${xLabel}` });
		this.update(this.app.point);
	}

	/** The scheme nearest to the pointer, if it is near enough for a finger. */
	nearest({ clientX, clientY }) {
		const { left, top } = this.svg.getBoundingClientRect();
		let [nearest, least] = [null, 24];
		for (const [point, { cx, cy }] of this.spots ?? []) {
			const distance = Math.hypot(cx - clientX + left, cy - clientY + top);
			if (distance < least) [nearest, least] = [point, distance];
		}
		return nearest;
	}

	caption(near) {
		this.svg.classList.toggle("x-over", Boolean(near));
		this.text.textContent = `${near ? "Click to choose" : "Shown:"} ${this.app.describe(near ?? this.app.point)}`;
	}

	update(point) {
		const { ranked, place } = this.app.table;
		const spot = this.spots?.get(point);
		if (this.mark) set(this.mark, { visibility: spot ? "visible" : "hidden", cx: spot?.cx, cy: spot?.cy });
		this.slider.disabled = ranked.length < 2;
		this.slider.max = ranked.length;
		if (place.has(point)) {
			this.slider.value = place.get(point) + 1;
			set(this.slider, { "aria-valuetext": this.app.describe(point) });
		}
		this.caption();
	}
}

/** Watch a search: the recorded one, or one that runs here on the table. */
class SearchPanel {
	constructor(app) {
		const { table } = app;
		const { search } = table.raw;
		Object.assign(this, { app, table });
		const restart = () => this.restart();
		const name = `${app.key}-${++instances}`;
		const radio = (value, text) => h("label.x-choice", h("input", { type: "radio", name, checked: value === "recorded", change: () => this.use(value) }), text);
		const knob = (key, attributes, label, show) => {
			const now = h("b", show(attributes.value));
			const input = () => ((now.textContent = show(this[key].value)), restart());
			this[key] = slider({ ...attributes, input });
			return h("label.x-wide", label, now, this[key]);
		};
		this.rnd = h("input", { type: "checkbox", checked: true, change: restart });
		this.seed = h("input", { type: "number", value: 0, change: restart });
		this.settings = h("div.x-settings",
			knob("lambda", { min: 0, max: 20, step: 0.5, value: search?.lambda_spa ?? 2 }, "Worth of sparsity, λ_spa: ", (value) => `${(+value).toFixed(1)} points`),
			knob("rate", { min: 0, max: RATES.length - 1, value: 3 }, "Learning rate: ", (value) => String(RATES[value])),
			h("label.x-choice", this.rnd, "bonus for novel schemes (RND)"),
			h("label.x-choice", "Seed ", this.seed),
		);
		this.playButton = button("", () => (this.timer ? this.pause() : this.play()));
		this.slider = slider({ min: 0, "aria-label": "step of the search", input: () => (this.pause(), this.go(+this.slider.value)) });
		this.count = h("output");
		this.bars = table.stages.map((count) => list(count, () => [h("div.x-fill"), h("span")]));
		const bar = ([fill, value]) => h("div.x-bar", h("div.x-tube", fill), value);
		const policy = this.bars.map((bars, s) => h("div", h("div.x-bars", bars.map(bar)), `stage ${s + 1}`));
		this.samples = row();
		this.verdict = h("p.x-verdict");
		this.svg = h("svg.x-chart", { role: "img" });
		this.element = card("Watch a search",
			search && table.complete ? row(radio("recorded", "the recorded search"), radio("here", "a new one in this page")) : null,
			this.settings,
			row(this.playButton, button("To the end", () => (this.pause(), this.go(Infinity))), this.count),
			this.slider,
			h("div.x-two",
				h("div", h("div.x-sub", "Probability of connecting each block"), h("div.x-policy", policy), h("div.x-sub", "Schemes sampled in this step, and their objectives"), this.samples),
				h("div", this.svg, legend(["x-any", "reward of a sample"], ["x-base", "baseline"], ["x-front", "best objective so far"])),
			),
			this.verdict,
		);
		this.use(search ? "recorded" : "here");
		this.stop = onWidth(this.svg, (width) => ((this.width = width), this.draw()));
	}

	close() {
		this.pause();
		this.stop();
	}

	use(source) {
		this.source = source;
		this.settings.hidden = source !== "here";
		this.restart();
	}

	restart() {
		this.pause();
		const { lambda, rate, rnd, seed, table } = this;
		const options = { lambdaSpa: +lambda.value, rate: RATES[rate.value], lambdaRnd: rnd.checked ? 0.1 : 0, seed: seed.value | 0 };
		this.search = this.source === "recorded" ? Search.recorded(table) : new Search(table, options);
		this.slider.max = this.search.total - 1;
		this.go(0);
	}

	play() {
		const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
		const end = this.search.total - 1;
		if (this.at >= end) this.go(0);
		this.playButton.textContent = "⏸ Pause";
		this.timer = setInterval(() => (this.at < end ? this.go(this.at + 1) : this.pause()), calm ? 600 : 70);
	}

	pause() {
		clearInterval(this.timer);
		this.timer = null;
		this.playButton.textContent = "▶ Play";
	}

	go(step) {
		this.at = clamp(step, 0, this.search.total - 1);
		while (this.search.history.length <= this.at) this.search.step();
		this.slider.value = this.at;
		this.draw();
	}

	objective(point) {
		return this.table.objective(point, this.search.lambdaSpa);
	}

	draw() {
		const { search, table, at } = this;
		const { probabilities: p, points, best, seen } = search.history[at];
		const count = `step ${at + 1} of ${search.total}`;
		this.count.textContent = count;
		set(this.slider, { "aria-valuetext": count });
		this.bars.flat().forEach(([fill, value], i) => {
			fill.style.height = `${100 * p[i]}%`;
			value.textContent = p[i].toFixed(2);
		});
		const score = (point) => this.objective(point).toFixed(2);
		const chip = (point) => h("button", { type: "button", click: () => this.app.choose(point.bits) }, h("code", point.text), ` ${score(point)}`);
		this.samples.replaceChildren(...points.map(chip));
		const open = p.filter((v) => v > 0.1 && v < 0.9).length;
		const target = table.complete && table.best(search.lambdaSpa);
		const missed = target && this.objective(target) > this.objective(best) + 1e-9;
		const verdict = missed ? `Not found yet: ${target.text}, ${score(target)}.` : target ? "No scheme is better." : "";
		this.verdict.textContent = `Schemes tried: ${seen}. The best so far is ${best.text}, objective ${score(best)} = accuracy + ${search.lambdaSpa} × sparsity. ${verdict} The policy is undecided (0.1 to 0.9) about ${open} of ${table.blocks} blocks.`;
		if (this.width) this.plot();
	}

	plot() {
		const { history, total } = this.search;
		const shown = history.slice(0, this.at + 1);
		const all = history.flatMap(({ rewards, best }) => [...(rewards ?? []), this.objective(best)]);
		const { x, y, layer } = axes(this.svg, this.width, 240, [0, total - 1, ticks(0, total - 1, 3), "step"], range(all, 0.08), "reward (%)");
		const spot = (i, value) => `${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
		const line = (kind, values) => h(`path.${kind}`, { d: values.map((value, i) => (known(value) ? `${i ? "L" : "M"}${spot(i, value)}` : "")).join("") });
		const dots = shown.flatMap(({ rewards }, i) => (rewards ?? []).map((reward) => `M${spot(i, reward)}h0`));
		layer.append(
			h("path.x-dots", { d: dots.join("") }),
			line("x-front", shown.map(({ best }) => this.objective(best))),
			line("x-base", shown.map(({ baseline }) => baseline)),
		);
		set(this.svg, { "aria-label": `rewards up to step ${this.at + 1}` });
	}
}

/* ---- the explorer ---- */

class Explorer {
	constructor(model, element) {
		const table = new Table(model.get("table"));
		const { raw } = table;
		Object.assign(this, { model, table, stop: [], requests: 0, linked: model.get("linked"), live: model.get("live") });
		this.key = `scheme-${model.get("name")}`;
		this.learn();
		this.hint = h("p.x-hint");
		this.problem = h("p.x-problem", { role: "alert", hidden: true });
		this.summary = h("p.x-hidden", { "aria-live": "polite" });
		const kinds = { numbers: Numbers, chart: Chart, search: (raw.search || table.complete) && SearchPanel };
		const parts = [Network, ...model.get("show").map((kind) => kinds[kind])];
		this.parts = parts.filter(Boolean).map((Part) => new Part(this));
		const [network, ...others] = this.parts.map((part) => part.element);
		this.element = h("div.ean-explorer", { role: "group", "aria-label": "Scheme explorer", "data-lm-suppress-shortcuts": "true" },
			h("div.x-head", h("strong", "Which blocks use attention?"), h("span", String(raw.title ?? ""))),
			network, this.hint, this.presets(), this.problem, others,
			raw.note ? h("p.x-source", String(raw.note)) : null, this.summary,
		);
		element.replaceChildren(this.element);
		this.explain(() => "Click a block, or use the arrow keys and the space bar. The line over a block is its shortcut. A connected block passes its residual branch through the module of its stage.");
		this.listen("change:scheme", () => this.refresh());
		this.listen("change:answers", () => this.receive());
		if (this.linked) {
			const follow = () => this.readHash();
			addEventListener("hashchange", follow);
			this.stop.push(() => removeEventListener("hashchange", follow));
			if (this.readHash()) this.element.scrollIntoView();
		}
		this.refresh();
	}

	listen(event, handler) {
		this.model.on(event, handler);
		this.stop.push(() => this.model.off(event, handler));
	}

	close() {
		for (const stop of this.stop) stop();
		for (const part of this.parts) part.close?.();
		clearTimeout(this.timer);
	}

	get bits() {
		return this.table.parse(this.model.get("scheme")) ?? "0".repeat(this.table.blocks);
	}

	get point() {
		return this.table.point(this.bits);
	}

	ranked(point) {
		const { table } = this;
		return `rank ${table.rank(point)} of ${table.ranked.length}${table.complete ? "" : " scored"}`;
	}

	describe(point) {
		const { text, connected, supernet, alone } = point;
		const accuracy = known(supernet) ? `${percent(supernet)} in the supernet, ${this.ranked(point)}` : "not scored";
		return `${text}: ${connected} connected, ${accuracy}${alone ? `, ${percent(alone[0])} trained alone` : ""}`;
	}

	explain(text) {
		this.explanation = text;
		this.hint.textContent = text();
	}

	toggle(number) {
		const { bits, parts } = this;
		this.explanation = () => parts[0].explainBlock(number);
		this.choose(bits.slice(0, number) + (bits[number] === "1" ? "0" : "1") + bits.slice(number + 1));
	}

	show(text) {
		this.model.set("scheme", text);
		this.model.save_changes();
	}

	choose(bits) {
		this.chosen = true;
		this.show(this.table.textOf(bits));
	}

	/** Once the reader pauses: say what is shown, and write it into the page's address. */
	settle() {
		const { point, address } = this;
		this.summary.textContent = `Scheme ${this.describe(point)}`;
		if (!this.linked || !this.chosen) return;
		address.set(this.key, point.text);
		try {
			history.replaceState(history.state, "", `#${address}`);
		} catch {
			// An embedding page may forbid it; the scheme is shown all the same.
		}
	}

	get address() {
		return new URLSearchParams([...new URLSearchParams(location.hash.slice(1))].filter(([, value]) => value));
	}

	/** Show the scheme that the page's address names, if it names one. */
	readHash() {
		const text = this.address.get(this.key);
		if (this.table.parse(text)) this.show(text);
		return this.table.parse(text);
	}

	presets() {
		const { table } = this;
		const { found, published } = table.raw;
		const shuffled = () => {
			const keys = [...this.bits].map((bit) => [Math.random(), bit]).sort((a, b) => a[0] - b[0]);
			return keys.map(([, bit]) => bit).join("");
		};
		const random = () => list(20, shuffled).find((bits) => bits !== this.bits) ?? this.bits;
		const best = () => table.ranked.find((point) => point.connected === this.point.connected).bits;
		const preset = (text, pick) => button(text, () => this.choose(pick()));
		const named = (text, scheme) => (table.parse(scheme) ? preset(text, () => table.parse(scheme)) : null);
		this.best = preset("", best);
		const all = (text, bit) => preset(text, () => bit.repeat(table.blocks));
		const ready = [all("None", "0"), all("Full", "1"), named("Found by the search", found), named("Published", published)];
		const element = row(ready, preset("Random, equally sparse", random), this.best);
		set(element, { role: "group", "aria-label": "ready-made schemes" });
		return element;
	}

	refresh() {
		const { table, point } = this;
		const { connected } = point;
		this.ask(point);
		for (const part of this.parts) part.update?.(point);
		this.explain(this.explanation);
		this.best.textContent = `Best with ${connected} connected`;
		this.best.disabled = !table.ranked.some((other) => other.connected === connected);
		clearTimeout(this.timer);
		this.timer = setTimeout(() => this.settle(), 300);
	}

	/** Ask Python for what is not known of a scheme. */
	ask({ text, supernet, extra_parameters }) {
		const failed = this.failed === text;
		this.failed = null;
		this.problem.hidden = !failed;
		this.waiting = Boolean(this.live) && !failed && !(known(supernet) && known(extra_parameters));
		this.element.classList.toggle("x-waiting", this.waiting);
		if (!this.waiting || this.asked === text) return;
		this.asked = text;
		this.model.set("asked", { scheme: text, request: ++this.requests });
		this.model.save_changes();
	}

	/** Put Python's answers into the table. */
	learn() {
		for (const [text, answer] of Object.entries(this.model.get("answers") ?? {})) {
			if (!answer.error) Object.assign(this.table.point(text.replaceAll("-", "")), answer);
		}
		this.table.sort();
	}

	/** Show what Python found, or what went wrong there. */
	receive() {
		this.learn();
		this.asked = null;
		for (const part of this.parts) part.renew?.();
		const { text } = this.point;
		const error = this.model.get("answers")[text]?.error;
		if (error) {
			this.failed = text;
			this.problem.textContent = `Python could not score ${text}: ${error}`;
		}
		this.refresh();
	}
}

function render({ model, el }) {
	const explorer = new Explorer(model, el);
	return () => explorer.close();
}

export default { render };
