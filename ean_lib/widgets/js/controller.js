/* The controller: the step of `ean_lib.search.controller` with its corrections, on a table of accuracies. */

import { clamp, list, sum } from "./basics.js";

/** Uniform numbers in [0, 1), the same for the same seed (mulberry32). */
export function randomNumbers(seed) {
	let state = (seed * 2654435761 + 12345) | 0;
	return () => {
		state = (state + 0x6d2b79f5) | 0;
		let t = Math.imul(state ^ (state >>> 15), 1 | state);
		t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
		return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
	};
}

/** Adam with first moment 0.9, on a list of values that it changes in place. */
class Adam {
	constructor(values, rate, beta) {
		Object.assign(this, { values, rate, beta, time: 0, mean: values.map(() => 0), square: values.map(() => 0) });
	}

	step(gradient) {
		const { values, rate, beta, mean, square } = this;
		this.time += 1;
		const meanBias = 1 - 0.9 ** this.time;
		const squareBias = Math.sqrt(1 - beta ** this.time);
		gradient.forEach((g, i) => {
			mean[i] = 0.9 * mean[i] + 0.1 * g;
			square[i] = beta * square[i] + (1 - beta) * g * g;
			values[i] -= ((rate / meanBias) * mean[i]) / (Math.sqrt(square[i]) / squareBias + 1e-8);
		});
	}
}

/** Layers with ReLU between, all weights in one list: of each layer the matrix, row by row, then the bias. */
class Perceptron {
	constructor(widths, uniform, weights) {
		this.shapes = widths.slice(1).map((outputs, layer) => [widths[layer], outputs]);
		const initial = ([inputs, outputs]) => list((inputs + 1) * outputs, () => (2 * uniform() - 1) / Math.sqrt(inputs));
		this.weights = weights ? [...weights] : this.shapes.flatMap(initial);
	}

	/** The activations of all layers, the input first. */
	forward(x) {
		const { weights, shapes } = this;
		const all = [x];
		let at = 0;
		shapes.forEach(([inputs, outputs], layer) => {
			const bias = at + inputs * outputs;
			const product = (o) => sum(all[layer].map((value, i) => weights[at + o * inputs + i] * value));
			const output = list(outputs, (o) => weights[bias + o] + product(o));
			const isLast = layer + 1 === shapes.length;
			all.push(isLast ? output : output.map((value) => Math.max(value, 0)));
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
			slope = below.map((value, i) => (all[layer][i] > 0 ? value : 0)); // back through ReLU
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

	/** The bonus of each scheme, in deviations of all errors so far; then one training step. */
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
		const deviation = Math.sqrt(sum(this.errors.map((error) => (error - mean) ** 2)) / this.errors.length);
		const unit = Math.max(deviation, mean / 10); // at first, errors are few and nearly equal
		return errors.map((error) => (deviation > 0 ? error / unit : 0));
	}
}

/** Independent Bernoulli logits, one per block, learned by REINFORCE. */
export class Controller {
	/** `uniform()` draws the samples and `pick(n)` the replayed batch; `weights` are of the bonus's two networks. */
	constructor(blocks, { seed = 0, rate = 0.1, lambdaRnd = 0.1, uniform, pick, weights } = {}) {
		const [own, replaying, initial] = [0, 1_000_003, 2_000_003].map((stream) => randomNumbers(seed + stream));
		const table = list(blocks, () => 0);
		Object.assign(this, { table, lambdaRnd, uniform: uniform ?? own, baseline: null, steps: 0, memory: [] });
		this.pick = pick ?? ((count) => Math.floor(replaying() * count));
		this.adam = new Adam(table, rate, 0.9);
		this.novelty = new Novelty(blocks, initial, weights);
	}

	/** z = 5 tanh(t / 5): the log-odds of connecting each block are bounded, so that sampling never dies out. */
	logits() {
		return this.table.map((t) => 5 * Math.tanh(t / 5));
	}

	probabilities() {
		return this.logits().map((z) => 1 / (1 + Math.exp(-z)));
	}

	sample() {
		const p = this.probabilities();
		return list(3, () => p.map((probability) => (this.uniform() < probability ? 1 : 0)));
	}

	logProbability(scheme) {
		return sum(this.logits().map((z, i) => -Math.log1p(Math.exp(scheme[i] ? -z : z))));
	}

	/** One step of Adam up Σ weight · log π(scheme), whose gradient in the logits is Σ weight · (scheme − p). */
	ascend(schemes, weights) {
		const p = this.probabilities();
		const gradient = p.map((own, l) => {
			const slope = 1 - Math.tanh(this.table[l] / 5) ** 2; // dz/dt
			return slope * sum(schemes.map((scheme, i) => weights[i] * (own - scheme[l])));
		});
		this.adam.step(gradient); // it descends, so the gradient's sign is turned
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
		if (this.steps >= 10) this.replay(count);
		this.steps += 1;
		return { probabilities, rewards, baseline };
	}

	/** Learn a little from one batch of the memory, by PPO's clipped ratio. */
	replay(count) {
		const [schemes, before, rewards] = this.memory[this.pick(this.memory.length)];
		const weights = schemes.map((scheme, i) => {
			const ratio = Math.exp(this.logProbability(scheme) - before[i]);
			const advantage = rewards[i] - this.baseline;
			const isClipped = clamp(ratio, 0.9, 1.1) * advantage < ratio * advantage;
			return isClipped ? 0 : (0.1 * ratio * advantage) / count;
		});
		this.ascend(schemes, weights);
	}
}
