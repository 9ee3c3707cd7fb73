/* A search of a table: a recorded one that is replayed, or one that runs in the page. */

import { Controller } from "./controller.js";

const STEPS = 300; // as in the paper

export class Search {
	/** `history` has for each step what is drawn: probabilities, sampled schemes, rewards, baseline, best, schemes seen. */
	constructor(table, { lambdaVal = 1, lambdaSpa = 2, rate, lambdaRnd, seed } = {}) {
		this.table = table;
		this.weights = { lambdaVal, lambdaSpa };
		this.total = STEPS;
		this.history = [];
		this.seen = new Set();
		this.best = null;
		this.controller = new Controller(table.blocks, { rate, lambdaRnd, seed });
	}

	/** The recorded search of the table, step by step. */
	static recorded(table) {
		const recorded = table.raw.search;
		const search = new Search(table, { lambdaVal: recorded.lambda_val, lambdaSpa: recorded.lambda_spa });
		const pointOf = (text) => table.point(table.parse(text));
		search.total = recorded.schemes.length;
		recorded.schemes.forEach((texts, step) => {
			search.note(texts.map(pointOf), {
				probabilities: recorded.probabilities[step].map((thousandths) => thousandths / 1000),
				rewards: recorded.rewards[step],
				baseline: recorded.baseline[step],
			});
		});
		return search;
	}

	/** Close a step: which schemes were sampled, and which is the best up to now. */
	note(points, record) {
		for (const point of points) this.seen.add(point);
		const candidates = this.best ? [this.best, ...points] : points;
		this.best = this.table.best(this.weights, candidates);
		this.history.push({ ...record, points, best: this.best, seen: this.seen.size });
	}

	/** One step of the controller on the table's accuracies. */
	step() {
		const schemes = this.controller.sample();
		const points = schemes.map((scheme) => this.table.point(scheme.join("")));
		const objectives = points.map((point) => this.table.objective(point, this.weights));
		this.note(points, this.controller.update(schemes, objectives));
	}
}
