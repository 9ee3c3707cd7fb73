/* Stages of blocks on the residual stream, and the module of each stage with a line to each connected block. */

import { clamp, list, sum } from "./basics.js";
import { h, onWidth, set } from "./dom.js";

const COLUMNS = 6; // blocks of a stage in a row; more stand in a second one
const CELL = 66; // width of a block with the room around it
const TITLE = 22; // height of a stage's name
const ROW = 128; // height of a row of blocks and its module

export class NetworkView {
	constructor(app) {
		const { stages, raw } = app.table;
		this.app = app;
		this.stages = stages;
		this.blocks = [];
		this.modules = [];
		const attention = String(raw.attention ?? "").toUpperCase().slice(0, 5);
		this.names = attention ? [`one shared ${attention} module`, `shared ${attention}`] : ["one shared module", "shared"];
		const name = "Blocks of the network. Arrow keys move, space connects or disconnects.";
		const keydown = (event) => this.keys(event);
		const drawn = stages.map((count, stage) => this.stage(count, `stage ${stage + 1}`, stage));
		this.element = h("div.x-network", { role: "group", "aria-label": name, keydown }, drawn);
		this.close = onWidth(this.element, (width) => this.fit(width));
	}

	stage(count, title, stage) {
		const columns = Math.min(count, COLUMNS);
		const width = CELL * columns;
		const tops = list(Math.ceil(count / COLUMNS), (i) => TITLE + ROW * i);
		const svg = h("svg.x-stage", {
			viewBox: `0 0 ${width} ${TITLE + ROW * tops.length}`,
			role: "group",
			"aria-label": title,
			style: `--columns: ${columns}`,
		});
		const text = (y) => ({ x: width / 2, y, "aria-hidden": "true" });
		svg.append(h("text.x-label", text(15), title));
		const sentence = `All connected blocks of ${title} call the same module, so its parameters are paid once.`;
		const explain = () => this.app.explain(() => sentence);
		for (const top of tops) {
			const name = h("text", text(top + 103));
			const box = h("rect", { x: 4, y: top + 88, width: width - 8, height: 30, rx: 6 });
			const shape = h("g", { pointerenter: explain, click: explain }, box, name);
			this.modules.push({ shape, name, stage, columns });
			svg.append(h("line.x-stream", { x1: 0, x2: width, y1: top + 34, y2: top + 34 }), shape);
		}
		for (let i = 0; i < count; i++) {
			const x = CELL * (i % COLUMNS) + 8;
			const top = tops[Math.floor(i / COLUMNS)];
			svg.append(this.block(`${title}, block ${i + 1}`, stage, x, top));
		}
		return svg;
	}

	block(name, stage, x, top) {
		const number = this.blocks.length;
		const wire = h("line.x-wire", { x1: x + 25, x2: x + 25, y1: top + 55 });
		const digit = h("text.x-digit", { x: x + 25, y: top + 34 });
		const pointerenter = () => this.app.explain(() => this.explainBlock(number));
		const focus = () => {
			// Of all blocks, tab reaches the one that was last in use; the arrow keys reach the others.
			this.blocks.forEach(({ toggle }, i) => set(toggle, { tabindex: i === number ? 0 : -1 }));
			pointerenter();
		};
		const click = () => this.app.toggle(number);
		const toggle = h("g.x-block", { role: "switch", tabindex: number ? -1 : 0, click, pointerenter, focus },
			h("rect.x-hit", { x: x - 8, y: top - 4, width: CELL, height: 90 }),
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
		const columns = this.stages.map((count) => Math.min(count, COLUMNS));
		const all = width / sum(columns);
		const unit = Math.min(all >= 33 ? all : width / Math.max(...columns), 92);
		this.element.style.setProperty("--unit", `${unit}px`);
		this.element.style.setProperty("--zoom", CELL / unit); // texts keep their size
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
