/* Elements of the page. Texts become text nodes: nothing that comes from data is ever parsed as HTML. */

import { known } from "./basics.js";

const SVG_TAGS = /^(svg|g|rect|line|path|circle|text)$/;
const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

/** Set attributes, and listeners where a value is a function; false, null and undefined leave it out. */
export function set(element, attributes) {
	for (const [key, value] of Object.entries(attributes)) {
		if (typeof value === "function") element.addEventListener(key, value);
		else if (known(value) && value !== false) element.setAttribute(key, value === true ? "" : value);
	}
}

/** An element such as "div.class", its attributes (optional) and children. */
export function h(name, ...content) {
	const [tag, kind] = name.split(".");
	const element = SVG_TAGS.test(tag) ? document.createElementNS(SVG_NAMESPACE, tag) : document.createElement(tag);
	const attributes = content[0]?.constructor === Object ? content.shift() : {};
	set(element, { class: kind, ...attributes });
	element.append(...content.flat(2).filter(known));
	return element;
}

export const card = (title, ...children) => h("section.x-card", h("div.x-title", title), children);
export const row = (...children) => h("div.x-row", children);
export const button = (text, click) => h("button", { type: "button", click }, text);
export const slider = (attributes) => h("input", { type: "range", step: 1, ...attributes });
export const legend = (...marks) => row(marks.map(([kind, text]) => h(`span.x-swatch ${kind}`, text)));

/** Call `draw(width)` whenever the width changes; gives a function that ends it. */
export function onWidth(element, draw) {
	let last = 0;
	const observer = new ResizeObserver(() => {
		const width = Math.floor(element.clientWidth);
		if (!width || width === last) return;
		last = width;
		draw(width);
	});
	observer.observe(element);
	return () => observer.disconnect();
}
