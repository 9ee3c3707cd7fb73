/* All schemes: accuracy against cost, with the Pareto front; a click or the slider of ranks chooses one. */

import { known, list, range } from "./basics.js";
import { axes, ticks } from "./charts.js";
import { card, h, legend, onWidth, row, set, slider } from "./dom.js";
import { paretoFront } from "./table.js";

const COSTS = {
	connected: ["connected blocks", (point) => point.connected],
	extra_parameters: ["extra parameters", (point) => point.extra_parameters],
	time: ["extra inference time (%)", (point) => point.time && 100 * point.time[0]],
};
const ACCURACIES = {
	supernet: ["accuracy in the supernet (%)", (point) => point.supernet],
	alone: ["accuracy trained alone (%)", (point) => point.alone?.[0]],
};

/** Where in its column a scheme stands, -0.32 to 0.32: always the same place, and another for each scheme. */
function spread(bits) {
	let share = 0;
	for (const bit of bits) share = (2 * share + (bit === "1" ? 0.618034 : 0)) % 1;
	return 0.64 * share - 0.32;
}

export class SchemeChart {
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
		this.close = onWidth(this.svg, (width) => {
			this.width = width;
			this.draw();
		});
	}

	/** Offer the axes for which there are at least two numbers, and draw. */
	renew() {
		const points = [...this.app.table.points.values()];
		for (const [select, choices] of [[this.axisX, COSTS], [this.axisY, ACCURACIES]]) {
			const now = select.value;
			const isOffered = ([, [, valueOf]], i) => i === 0 || points.filter((point) => known(valueOf(point))).length > 1;
			const option = ([value, [label]]) => h("option", { value, selected: value === now }, label);
			select.replaceChildren(...Object.entries(choices).filter(isOffered).map(option));
		}
		this.draw();
	}

	draw() {
		if (!this.width) return;
		const { table } = this.app;
		const isColumns = this.axisX.value === "connected";
		const [xLabel, x] = COSTS[this.axisX.value];
		const [yLabel, y] = ACCURACIES[this.axisY.value];
		const points = [...table.points.values()].filter((point) => known(x(point)) && known(y(point)));
		const [x0, x1] = isColumns ? [-0.5, table.blocks + 0.5] : range(points.map(x), 0.05);
		const count = this.width < 420 ? 3 : 6;
		const marks = isColumns ? ticks(0, x1, Math.min(table.blocks, 17) + 1) : ticks(x0, x1, count);
		const scale = axes(this.svg, this.width, 300, [x0, x1, marks, xLabel], range(points.map(y), 0.07), yLabel);
		const front = paretoFront(points, x, y);
		// Schemes with equally many connections stand beside each other, so that none hides another.
		const onFront = new Set(front);
		const beside = (point) => (isColumns && !onFront.has(point) ? spread(point.bits) : 0);
		this.spots = new Map();
		for (const point of points) {
			this.spots.set(point, { cx: scale.x(x(point) + beside(point)), cy: scale.y(y(point)) });
		}
		const radius = points.length > 200 ? 3 : 4.5;
		const circles = (kind, some) => some.map((point) => h(`circle.${kind}`, { ...this.spots.get(point), r: radius }));
		const corners = front.map((point) => this.spots.get(point));
		const d = corners.map(({ cx, cy }, i) => (i ? `H${cx}V${cy}` : `M${cx} ${cy}`)).join("");
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
