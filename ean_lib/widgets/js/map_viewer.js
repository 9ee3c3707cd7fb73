/* The map viewer: what each block of a network has found in a picture, by Grad-CAM, for the class that the reader asks.
 *
 * One ES module, used by anywidget beside a kernel and by a host of ten lines in a page. Model: name, content. The
 * content has pictures and class names, and for each network and picture a grey PNG with all its maps: a row per block,
 * a column per class. No text is ever parsed as HTML.
 */

import { h } from "./dom.js";

// Matplotlib's "inferno" at equal steps: brighter is more, also without colours.
const INFERNO = [
	[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99],
	[212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164],
];
const SCALE = 8; // screen pixels of a picture's pixel
let viewers = 0;

/** The colour of a map's value, 0 to 255. */
export function inferno(value) {
	const at = (value / 255) * (INFERNO.length - 1);
	const step = Math.min(Math.floor(at), INFERNO.length - 2);
	return INFERNO[step].map((low, i) => Math.round(low + (at - step) * (INFERNO[step + 1][i] - low)));
}

/** An image that is given as a data address, ready to be drawn. */
async function load(address) {
	const image = new Image();
	image.src = address;
	await image.decode();
	return image;
}

/** The part of an image of grey values that begins at x, y, as a canvas in colours; and its largest value. */
function colourise(image, x, y, width, height) {
	const canvas = h("canvas", { width, height });
	const context = canvas.getContext("2d", { willReadFrequently: true });
	context.drawImage(image, x, y, width, height, 0, 0, width, height);
	const part = context.getImageData(0, 0, width, height);
	let most = 0;
	for (let at = 0; at < part.data.length; at += 4) {
		most = Math.max(most, part.data[at]);
		part.data.set(inferno(part.data[at]), at);
	}
	context.putImageData(part, 0, 0);
	return { canvas, most };
}

class Viewer {
	constructor(model, place) {
		const { networks, pictures, classes, shown } = model.get("content");
		const id = `ean-maps-${model.get("name")}-${++viewers}`;
		Object.assign(this, { networks, pictures, classes });
		this.cache = new Map();
		this.shown = { ...shown };
		const change = (key) => (event) => {
			this.shown[key] = Number(event.target.value);
			this.draw();
		};
		const choice = (key, names) => {
			const options = names.map((name, i) => h("option", { value: i }, name));
			return h("select", { id: `${id}-${key}`, change: change(key) }, options);
		};
		const slider = (key, max) =>
			h("input", { id: `${id}-${key}`, type: "range", min: 0, max, step: 1, input: change(key) });
		this.network = choice("network", networks.map(({ name }) => name));
		this.class = choice("class", classes);
		this.block = slider("block", networks[shown.network].blocks.length - 1);
		this.blend = slider("blend", 100);
		this.where = h("output", { for: `${id}-block` });
		this.share = h("output", { for: `${id}-blend` });
		this.thumbnails = pictures.map(({ address, label }, i) => {
			const alt = `picture ${i + 1}: ${classes[label]}`;
			return h("button", { type: "button", click: () => this.choose(i) }, h("img.dark-light", { src: address, alt }));
		});
		this.canvas = h("canvas", { role: "img" });
		this.says = h("p", { "aria-live": "polite" });
		const field = (key, text, ...parts) => h("div.m-field", h("label", { for: `${id}-${key}` }, text), ...parts);
		const attributes = { role: "group", "aria-label": "Grad-CAM viewer", "data-lm-suppress-shortcuts": "true" };
		this.element = h("div.ean-maps", attributes,
			h("div.m-view",
				this.canvas,
				h("div.m-thumbnails", { role: "group", "aria-label": "Pictures" }, this.thumbnails),
			),
			h("div.m-controls",
				field("network", "Network", this.network),
				field("class", "Evidence for", this.class),
				field("block", "After", this.where, this.block),
				field("blend", "Map over picture", this.share, this.blend),
				this.says,
			),
		);
		place.replaceChildren(this.element);
		this.draw();
	}

	/** Show another picture, and first of all the evidence for what it is. */
	choose(picture) {
		Object.assign(this.shown, { picture, class: this.pictures[picture].label });
		this.draw();
	}

	/** An image, decoded once. */
	image(address) {
		if (!this.cache.has(address)) this.cache.set(address, load(address));
		return this.cache.get(address);
	}

	/** Draw what is chosen; an error stands where the network's answer would. */
	draw() {
		this.drawChosen().catch((error) => {
			this.says.textContent = `The map cannot be drawn: ${error.message}`;
			console.error(error);
		});
	}

	async drawChosen() {
		const { classes, pictures } = this;
		const shown = { ...this.shown };
		const network = this.networks[shown.network];
		const { address, label } = pictures[shown.picture];
		for (const key of ["network", "class", "block", "blend"]) this[key].value = shown[key];
		this.thumbnails.forEach((button, i) => button.setAttribute("aria-pressed", i === shown.picture));
		this.where.textContent = network.blocks[shown.block];
		this.block.setAttribute("aria-valuetext", network.blocks[shown.block]);
		this.share.textContent = `${shown.blend} %`;
		const [picture, maps] = await Promise.all([this.image(address), this.image(network.maps[shown.picture])]);
		if (JSON.stringify(shown) !== JSON.stringify(this.shown)) return; // the reader has gone on meanwhile
		const [width, height] = [maps.width / classes.length, maps.height / network.blocks.length];
		const map = colourise(maps, shown.class * width, shown.block * height, width, height);
		Object.assign(this.canvas, { width: SCALE * picture.width, height: SCALE * picture.height });
		const context = this.canvas.getContext("2d");
		context.imageSmoothingEnabled = false;
		context.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
		context.imageSmoothingEnabled = true;
		context.globalAlpha = shown.blend / 100;
		context.drawImage(map.canvas, 0, 0, this.canvas.width, this.canvas.height);
		const { says, percent } = network.answers[shown.picture];
		const verdict = says === label ? "and is right" : `but it is: ${classes[label]}`;
		const nothing = map.most ? "" : ` Nothing here speaks for ${classes[shown.class]}.`;
		this.says.textContent = `${network.name} says ${classes[says]} (${percent} %), ${verdict}.${nothing}`;
		const evidence = `Evidence for ${classes[shown.class]} after ${network.blocks[shown.block]}`;
		this.canvas.setAttribute("aria-label", `${evidence}, over a picture of: ${classes[label]}`);
		this.element.dataset.drawn = JSON.stringify(shown);
	}
}

function render({ model, el }) {
	try {
		new Viewer(model, el);
	} catch (error) {
		// Nobody looks into a page's console, so the error stands where the viewer would.
		el.replaceChildren(h("p", { role: "alert" }, `The map viewer cannot be shown: ${error.message}`));
		console.error(error);
	}
}

export default { render };
