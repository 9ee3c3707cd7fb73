/* The table: what is known of each scheme of a network.
 *
 * A scheme travels as text, such as 10-00-01: as an integer, one of more than 53 blocks would be rounded.
 */

import { known, sum } from "./basics.js";

const MEASURED = ["supernet", "extra_parameters", "extra_macs", "alone", "time"];

export class Table {
	/** `raw` has `stages`, and for each quantity a list with an entry per scheme in order, or entries by the scheme's text. */
	constructor(raw) {
		this.raw = raw;
		this.stages = raw.stages;
		this.blocks = sum(raw.stages);
		this.points = new Map();
		for (const quantity of MEASURED) {
			const values = raw[quantity] ?? {};
			for (const [key, value] of Object.entries(values)) {
				const bits = Array.isArray(values) ? this.bitsAt(+key) : key.replaceAll("-", "");
				this.point(bits)[quantity] = value;
			}
		}
		this.sort();
	}

	/** The bits of the scheme that stands at a place of a complete list, the first block in front. */
	bitsAt(place) {
		return place.toString(2).padStart(this.blocks, "0");
	}

	textOf(bits) {
		let start = 0;
		const groups = this.stages.map((blocks) => bits.slice(start, (start += blocks)));
		return groups.join("-");
	}

	/** The bits of a text such as 10-00-01, or null where it is none of this network's schemes. */
	parse(text) {
		const bits = String(text).replaceAll("-", "");
		const isScheme = /^[01]+$/.test(bits) && bits.length === this.blocks && this.textOf(bits) === text;
		return isScheme ? bits : null;
	}

	/** What is known of a scheme; a value that was not measured is undefined or null. */
	point(bits) {
		if (!this.points.has(bits)) {
			const connected = bits.replaceAll("0", "").length;
			const sparsity = 1 - connected / this.blocks;
			this.points.set(bits, { bits, text: this.textOf(bits), connected, sparsity });
		}
		return this.points.get(bits);
	}

	/** Order the scored schemes: most accurate first, then fewest connections, then by their text. */
	sort() {
		const scored = [...this.points.values()].filter((point) => known(point.supernet));
		this.ranked = scored.sort((a, b) => b.supernet - a.supernet || simplerFirst(a, b));
		this.place = new Map(this.ranked.map((point, index) => [point, index]));
		this.complete = this.ranked.length === 2 ** this.blocks;
	}

	/** 1 for the most accurate; equal accuracies share a rank. */
	rank(point) {
		return this.ranked.findIndex((other) => other.supernet === point.supernet) + 1;
	}

	/** λ_val · accuracy + λ_spa · sparsity, in percent. */
	objective(point, { lambdaVal, lambdaSpa }) {
		return lambdaVal * point.supernet + lambdaSpa * point.sparsity;
	}

	/** The scheme with the highest objective; among equal ones, as in Python, fewest connections, then the first text. */
	best(weights, among = this.ranked) {
		const better = (a, b) => this.objective(b, weights) - this.objective(a, weights) || simplerFirst(a, b);
		return among.reduce((best, point) => (better(best, point) <= 0 ? best : point));
	}
}

function simplerFirst(a, b) {
	if (a.connected !== b.connected) return a.connected - b.connected;
	if (a.text === b.text) return 0;
	return a.text < b.text ? -1 : 1;
}

/** The points that no other beats in both: more y for no more x. */
export function paretoFront(points, x, y) {
	const ordered = [...points].sort((a, b) => x(a) - x(b) || y(b) - y(a));
	const front = [];
	let highest = -Infinity;
	for (const point of ordered) {
		if (y(point) <= highest) continue;
		highest = y(point);
		front.push(point);
	}
	return front;
}
