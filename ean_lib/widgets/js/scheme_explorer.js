/* The scheme explorer: which blocks of a network call their stage's attention module, and what that buys.
 *
 * One ES module, used twice: by anywidget beside a kernel, and in a page by a host of ten lines that answers get, set,
 * on, off and save_changes. Model: name, table, show, scheme, linked (the page's address holds the scheme), live (Python
 * scores what is not in the table: `asked` goes there, `answers` come back). No text is ever parsed as HTML.
 */

import { known, list, percent } from "./basics.js";
import { button, h, row, set } from "./dom.js";
import { NetworkView } from "./network_view.js";
import { Numbers } from "./numbers.js";
import { SchemeChart } from "./scheme_chart.js";
import { SearchPanel } from "./search_panel.js";
import { Table } from "./table.js";

const WELCOME =
	"Click a block, or use the arrow keys and the space bar. The line over a block is its shortcut. " +
	"A connected block passes its residual branch through the module of its stage.";

class Explorer {
	constructor(model, element) {
		const table = new Table(model.get("table"));
		const { raw } = table;
		this.model = model;
		this.table = table;
		this.stop = []; // what to call at the end
		this.requests = 0;
		this.linked = model.get("linked");
		this.live = model.get("live");
		this.key = `scheme-${model.get("name")}`;
		this.learn();
		this.hint = h("p.x-hint");
		this.problem = h("p.x-problem", { role: "alert", hidden: true });
		this.summary = h("p.x-hidden", { "aria-live": "polite" });
		const canSearch = raw.search || table.complete;
		const kinds = { numbers: Numbers, chart: SchemeChart, search: canSearch && SearchPanel };
		const parts = [NetworkView, ...model.get("show").map((kind) => kinds[kind])];
		this.parts = parts.filter(Boolean).map((Part) => new Part(this));
		const [network, ...others] = this.parts.map((part) => part.element);
		const attributes = { role: "group", "aria-label": "Scheme explorer", "data-lm-suppress-shortcuts": "true" };
		this.element = h("div.ean-explorer", attributes,
			h("div.x-head", h("strong", "Which blocks use attention?"), h("span", String(raw.title ?? ""))),
			network, this.hint, this.presets(), this.problem, others,
			raw.note ? h("p.x-source", String(raw.note)) : null, this.summary,
		);
		element.replaceChildren(this.element);
		this.explain(() => WELCOME);
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
		const facts = [`${connected} connected`];
		facts.push(known(supernet) ? `${percent(supernet)} in the supernet, ${this.ranked(point)}` : "not scored");
		if (alone) facts.push(`${percent(alone[0])} trained alone`);
		return `${text}: ${facts.join(", ")}`;
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

	/** The states that the page's address holds; an anchor of the page is none. */
	get address() {
		const entries = [...new URLSearchParams(location.hash.slice(1))];
		return new URLSearchParams(entries.filter(([, value]) => value));
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
		const ready = [
			all("None", "0"),
			all("Full", "1"),
			named("Found by the search", found),
			named("Published", published),
		];
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
		const isKnown = known(supernet) && known(extra_parameters);
		this.waiting = Boolean(this.live) && !failed && !isKnown;
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
	try {
		const explorer = new Explorer(model, el);
		return () => explorer.close();
	} catch (error) {
		// Nobody looks into a page's console, so the error stands where the explorer would.
		el.replaceChildren(h("p", { role: "alert" }, `The explorer cannot be shown: ${error.message}`));
		console.error(error);
	}
}

export default { render };
