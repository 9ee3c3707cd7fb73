/* Watch a search: the recorded one, or one that runs here on the table. */

import { clamp, known, list, range } from "./basics.js";
import { axes, ticks } from "./charts.js";
import { button, card, h, legend, onWidth, row, set, slider } from "./dom.js";
import { Search } from "./search.js";

const RATES = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1];
const FRAME = 70; // milliseconds of a step that is played
const CALM_FRAME = 600; // where the reader asks for little motion
let instances = 0;

export class SearchPanel {
	constructor(app) {
		const { table } = app;
		const { search } = table.raw;
		this.app = app;
		this.table = table;
		const restart = () => this.restart();
		const name = `${app.key}-${++instances}`;
		const radio = (value, text) => {
			const checked = value === "recorded";
			return h("label.x-choice", h("input", { type: "radio", name, checked, change: () => this.use(value) }), text);
		};
		const knob = (key, attributes, label, show) => {
			const now = h("b", show(attributes.value));
			const input = () => {
				now.textContent = show(this[key].value);
				restart();
			};
			this[key] = slider({ ...attributes, input });
			return h("label.x-wide", label, now, this[key]);
		};
		this.rnd = h("input", { type: "checkbox", checked: true, change: restart });
		this.seed = h("input", { type: "number", value: 0, change: restart });
		this.settings = h("div.x-settings",
			knob("lambda", { min: 0, max: 20, step: 0.5, value: search?.lambda_spa ?? 2 },
				"Worth of sparsity, λ_spa: ", (value) => `${(+value).toFixed(1)} points`),
			knob("rate", { min: 0, max: RATES.length - 1, value: 3 },
				"Learning rate: ", (value) => String(RATES[value])),
			h("label.x-choice", this.rnd, "bonus for novel schemes (RND)"),
			h("label.x-choice", "Seed ", this.seed),
		);
		this.playButton = button("", () => (this.timer ? this.pause() : this.play()));
		const jump = (step) => {
			this.pause();
			this.go(step);
		};
		this.slider = slider({ min: 0, "aria-label": "step of the search", input: () => jump(+this.slider.value) });
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
			row(this.playButton, button("To the end", () => jump(Infinity)), this.count),
			this.slider,
			h("div.x-two",
				h("div",
					h("div.x-sub", "Probability of connecting each block"),
					h("div.x-policy", policy),
					h("div.x-sub", "Schemes sampled in this step, and their objectives"),
					this.samples,
				),
				h("div",
					this.svg,
					legend(["x-any", "reward of a sample"], ["x-base", "baseline"], ["x-front", "best objective so far"]),
				),
			),
			this.verdict,
		);
		this.use(search ? "recorded" : "here");
		this.stop = onWidth(this.svg, (width) => {
			this.width = width;
			this.draw();
		});
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
		const options = {
			lambdaVal: table.raw.search?.lambda_val ?? table.raw.lambda_val,
			lambdaSpa: +lambda.value,
			rate: RATES[rate.value],
			lambdaRnd: rnd.checked ? 0.1 : 0,
			seed: seed.value | 0,
		};
		this.search = this.source === "recorded" ? Search.recorded(table) : new Search(table, options);
		this.slider.max = this.search.total - 1;
		this.go(0);
	}

	play() {
		const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
		const end = this.search.total - 1;
		if (this.at >= end) this.go(0);
		this.playButton.textContent = "⏸ Pause";
		this.timer = setInterval(() => (this.at < end ? this.go(this.at + 1) : this.pause()), isCalm ? CALM_FRAME : FRAME);
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
		return this.table.objective(point, this.search.weights);
	}

	draw() {
		const { search, table, at } = this;
		const { probabilities: p, points } = search.history[at];
		const count = `step ${at + 1} of ${search.total}`;
		this.count.textContent = count;
		set(this.slider, { "aria-valuetext": count });
		this.bars.flat().forEach(([fill, value], i) => {
			fill.style.height = `${100 * p[i]}%`;
			value.textContent = p[i].toFixed(2);
		});
		const score = (point) => this.objective(point).toFixed(2);
		const chip = (point) => {
			const click = () => this.app.choose(point.bits);
			return h("button", { type: "button", click }, h("code", point.text), ` ${score(point)}`);
		};
		this.samples.replaceChildren(...points.map(chip));
		this.verdict.textContent = this.judge(search.history[at]);
		if (this.width) this.plot();
	}

	/** What a step has reached: the best scheme so far, whether there is a better one, and how sure the policy is. */
	judge({ probabilities, best, seen }) {
		const { search, table } = this;
		const { lambdaVal, lambdaSpa } = search.weights;
		const score = (point) => this.objective(point).toFixed(2);
		const accuracy = lambdaVal === 1 ? "accuracy" : `${lambdaVal} × accuracy`;
		const open = probabilities.filter((p) => p > 0.1 && p < 0.9).length;
		const sentences = [
			`Schemes tried: ${seen}.`,
			`The best so far is ${best.text}, objective ${score(best)} = ${accuracy} + ${lambdaSpa} × sparsity.`,
		];
		if (table.complete) {
			const target = table.best(search.weights);
			const isMissed = this.objective(target) > this.objective(best) + 1e-9;
			sentences.push(isMissed ? `Not found yet: ${target.text}, ${score(target)}.` : "No scheme is better.");
		}
		sentences.push(`The policy is undecided (0.1 to 0.9) about ${open} of ${table.blocks} blocks.`);
		return sentences.join(" ");
	}

	plot() {
		const { history, total } = this.search;
		const shown = history.slice(0, this.at + 1);
		const all = history.flatMap(({ rewards, best }) => [...(rewards ?? []), this.objective(best)]);
		const steps = [0, total - 1, ticks(0, total - 1, 3), "step"];
		const { x, y, layer } = axes(this.svg, this.width, 240, steps, range(all, 0.08), "reward (%)");
		const spot = (i, value) => `${x(i).toFixed(1)} ${y(value).toFixed(1)}`;
		const line = (kind, values) => {
			const move = (value, i) => (known(value) ? `${i ? "L" : "M"}${spot(i, value)}` : "");
			return h(`path.${kind}`, { d: values.map(move).join("") });
		};
		const dots = shown.flatMap(({ rewards }, i) => (rewards ?? []).map((reward) => `M${spot(i, reward)}h0`));
		layer.append(
			h("path.x-dots", { d: dots.join("") }),
			line("x-front", shown.map(({ best }) => this.objective(best))),
			line("x-base", shown.map(({ baseline }) => baseline)),
		);
		set(this.svg, { "aria-label": `rewards up to step ${this.at + 1}` });
	}
}
