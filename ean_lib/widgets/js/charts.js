/* Axes of charts, drawn as SVG. */

import { list } from "./basics.js";
import { h, set } from "./dom.js";

/** About `count` round numbers from low to high. */
export function ticks(low, high, count) {
	const raw = (high - low) / count || 1;
	const power = 10 ** Math.floor(Math.log10(raw));
	const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= raw * 0.999);
	const first = Math.ceil(low / step - 1e-9);
	return list(Math.floor(high / step + 1e-9) - first + 1, (i) => (first + i) * step);
}

/** Draw the axes of a chart, in pixels; give its scales and the layer for its marks. */
export function axes(svg, width, height, [x0, x1, marks, xLabel], [y0, y1], yLabel) {
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
