/* A trained network in the page: the forward pass of a file that ean_lib.widgets.page_network wrote.
 *
 * Features are Float32Arrays, channel by channel, row by row. Weights stay 8-bit integers: a convolution sums integers
 * times features, and its scale, BatchNorm's factor and BatchNorm's shift come at the end. What the first blocks gave
 * for a picture is kept, so that toggling a block computes only what follows it.
 */

/** The numbers of a file by name: 8-bit integers as they are, all else as Float32Array. */
function readTensors({ tensors, data }) {
	const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0)).buffer;
	const read = {};
	for (const [name, { type, shape, at }] of Object.entries(tensors)) {
		const count = shape.reduce((product, size) => product * size, 1);
		if (type === "int8") read[name] = new Int8Array(bytes, at, count);
		else if (type === "float32") read[name] = new Float32Array(bytes, at, count);
		else read[name] = Float32Array.from(new Uint16Array(bytes, at, count), fromHalf);
	}
	return read;
}

/** A 16-bit floating-point number from its bits. */
export function fromHalf(bits) {
	const sign = bits & 0x8000 ? -1 : 1;
	const exponent = (bits >> 10) & 31;
	const fraction = bits & 1023;
	if (exponent === 0) return sign * fraction * 2 ** -24;
	if (exponent === 31) return fraction ? NaN : sign * Infinity;
	return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** Features with a margin of zeros. */
function pad({ values, channels, height, width }, margin) {
	if (margin === 0) return { values, channels, height, width };
	const [tall, wide] = [height + 2 * margin, width + 2 * margin];
	const padded = new Float32Array(channels * tall * wide);
	for (let c = 0; c < channels; c++) {
		for (let y = 0; y < height; y++) {
			const from = (c * height + y) * width;
			padded.set(values.subarray(from, from + width), (c * tall + y + margin) * wide + margin);
		}
	}
	return { values: padded, channels, height: tall, width: wide };
}

/** Add to `out` what a 3 x 3 kernel, w[k] and the eight weights after it, makes of the channel that begins at `corner`. */
function addSquare(out, w, k, from, corner, { height, width, stride, wide }) {
	const [a, b, c, d, e, f, g, h, i] = w.subarray(k, k + 9);
	for (let y = 0; y < height; y++) {
		let top = corner + y * stride * wide;
		const end = (y + 1) * width;
		for (let to = y * width; to < end; to++, top += stride) {
			const middle = top + wide;
			const bottom = middle + wide;
			out[to] +=
				a * from[top] + b * from[top + 1] + c * from[top + 2] +
				d * from[middle] + e * from[middle + 1] + f * from[middle + 2] +
				g * from[bottom] + h * from[bottom + 1] + i * from[bottom + 2];
		}
	}
}

/** The same for one weight w of a kernel of any size. */
function addPoint(out, w, from, corner, { height, width, stride, wide }) {
	for (let y = 0; y < height; y++) {
		let at = corner + y * stride * wide;
		const end = (y + 1) * width;
		for (let to = y * width; to < end; to++, at += stride) out[to] += w * from[at];
	}
}

/** A convolution, then `factor` and `shift` of each output channel. */
export function convolve(input, { weight, scale, shape, stride, padding, groups }, factor, shift) {
	const [outputs, inputs, kernel] = shape; // inputs of one group
	const padded = pad(input, padding);
	const height = Math.floor((padded.height - kernel) / stride) + 1;
	const width = Math.floor((padded.width - kernel) / stride) + 1;
	const size = height * width;
	const values = new Float32Array(outputs * size);
	const move = { height, width, stride, wide: padded.width };
	for (let o = 0; o < outputs; o++) {
		const out = values.subarray(o * size, (o + 1) * size);
		const first = Math.floor(o / (outputs / groups)) * inputs;
		for (let i = 0; i < inputs; i++) {
			const channel = (first + i) * padded.height * padded.width;
			const start = (o * inputs + i) * kernel * kernel;
			if (kernel === 3) {
				addSquare(out, weight, start, padded.values, channel, move);
				continue;
			}
			for (let k = 0; k < kernel * kernel; k++) {
				const corner = channel + Math.floor(k / kernel) * padded.width + (k % kernel);
				addPoint(out, weight[start + k], padded.values, corner, move);
			}
		}
		const all = scale[o] * factor[o];
		for (let p = 0; p < size; p++) out[p] = out[p] * all + shift[o];
	}
	return { values, channels: outputs, height, width };
}

/** The largest of 3 x 3 positions, every second one, as in the stem of ImageNet's networks; inputs are not negative. */
function maxPool(input) {
	const padded = pad(input, 1);
	const height = Math.floor((padded.height - 3) / 2) + 1;
	const width = Math.floor((padded.width - 3) / 2) + 1;
	const values = new Float32Array(input.channels * height * width);
	for (let to = 0; to < values.length; to++) {
		const c = Math.floor(to / (height * width));
		const y = 2 * (Math.floor(to / width) % height);
		const x = 2 * (to % width);
		for (let k = 0; k < 9; k++) {
			const at = (c * padded.height + y + Math.floor(k / 3)) * padded.width + x + (k % 3);
			values[to] = Math.max(values[to], padded.values[at]);
		}
	}
	return { values, channels: input.channels, height, width };
}

const mapped = (features, f) => ({ ...features, values: features.values.map(f) });
const relu = (features) => mapped(features, (value) => Math.max(value, 0));
const added = (a, b) => mapped(a, (value, i) => value + b.values[i]);

/** The mean of each channel. */
export function channelMeans({ values, channels, height, width }) {
	const size = height * width;
	const means = new Float32Array(channels);
	for (let c = 0; c < channels; c++) {
		let total = 0;
		for (let p = c * size; p < (c + 1) * size; p++) total += values[p];
		means[c] = total / size;
	}
	return means;
}

/** A linear layer of 8-bit weights. */
function linear(x, { weight, scale, bias }) {
	return Float32Array.from(bias, (b, o) => {
		let total = 0;
		for (let i = 0; i < x.length; i++) total += weight[o * x.length + i] * x[i];
		return total * scale[o] + b;
	});
}

/** Each attention: its gates, and the state that goes to the next connected block of the stage. */
const ATTENTION = {
	se(y, part) {
		const hidden = linear(channelMeans(y), part("fc1")).map((value) => Math.max(value, 0));
		return { gates: linear(hidden, part("fc2")).map(sigmoid), state: null };
	},

	/** A long short-term memory whose time steps are the connected blocks; its hidden state is the gate. */
	dia(y, part, before) {
		const count = y.channels;
		const state = before ?? { h: new Float32Array(count), c: new Float32Array(count) };
		const bottleneck = (x, name) => {
			const hidden = linear(x, part(`${name}.0`)).map((value) => Math.max(value, 0));
			return linear(hidden, part(`${name}.2`));
		};
		const fromState = bottleneck(state.h, "hh");
		const signals = bottleneck(channelMeans(y), "ih").map((value, i) => value + fromState[i]);
		const c = state.c.map((value, i) => {
			const [enter, forget, cell] = [signals[i], signals[count + i], signals[2 * count + i]];
			return sigmoid(forget) * value + sigmoid(enter) * Math.tanh(cell);
		});
		const h = c.map((value, i) => sigmoid(signals[3 * count + i]) * sigmoid(value));
		return { gates: h, state: { h, c } };
	},

	/** How much the vector of a position agrees with its group's mean vector: a gate for each group and position. */
	sge(y, part, before, groups) {
		const size = y.height * y.width;
		const inGroup = y.channels / groups;
		const means = channelMeans(y);
		const gates = new Float32Array(groups * size);
		const { weight, bias } = part("");
		for (let g = 0; g < groups; g++) {
			const t = gates.subarray(g * size, (g + 1) * size);
			for (let c = g * inGroup; c < (g + 1) * inGroup; c++) {
				for (let p = 0; p < size; p++) t[p] += means[c] * y.values[c * size + p];
			}
			const mean = t.reduce((a, b) => a + b) / size;
			const squares = t.reduce((a, b) => a + (b - mean) ** 2, 0);
			const deviation = Math.sqrt(squares / Math.max(size - 1, 1)) + 1e-5;
			for (let p = 0; p < size; p++) t[p] = sigmoid(((t[p] - mean) / deviation) * weight[g] + bias[g]);
		}
		return { gates, state: null };
	},
};

/** Features times gates, of which there is one per channel, or, where there are groups, one per group and position. */
function gated(y, gates, groups) {
	const size = y.height * y.width;
	if (!groups) return mapped(y, (value, i) => value * gates[Math.floor(i / size)]);
	const inGroup = y.channels / groups;
	return mapped(y, (value, i) => value * gates[Math.floor(i / (size * inGroup)) * size + (i % size)]);
}

export class PageNetwork {
	/** `packed` is the content of the file. */
	constructor(packed) {
		this.packed = packed;
		this.tensors = readTensors(packed);
		this.picture = null;
		this.steps = []; // of each block: the prefix before it, what it saw and gave
	}

	/**
	 * Look at a picture: Float32Array (3, height, width) from 0 to 1, with the connections of `bits`, such as "100000".
	 * Gives the scores of all classes, the gates of each block (null where it is off) and the last block's features.
	 */
	look(picture, bits) {
		if (picture !== this.picture) {
			this.picture = picture;
			this.steps = [];
			this.start = this.stem(picture);
		}
		let input = this.start;
		let state = null;
		this.packed.blocks.forEach((block, depth) => {
			const prefix = bits.slice(0, depth);
			if (block.first) state = null;
			let step = this.steps[depth];
			if (step?.prefix !== prefix) {
				step = { prefix, ...this.branch(block, depth, input, prefix), bit: null };
				this.steps[depth] = step;
				this.steps.length = depth + 1;
			}
			if (step.bit !== bits[depth]) Object.assign(step, this.merge(block, step, bits[depth], state));
			input = step.output;
			state = step.state;
		});
		const scores = linear(channelMeans(input), this.layer("fc"));
		return { scores, gates: this.steps.map(({ gates }) => gates), features: input };
	}

	/**
	 * Where the last block's features speak for a class, 0 to 1, (height, width) of the features: behind global pooling
	 * and one linear layer the class activation map is Grad-CAM's at the last block, and needs no backward pass.
	 */
	activationMap({ values, channels, height, width }, classNumber) {
		const { weight } = this.layer("fc"); // its scale is one positive number for the class, so it does not matter
		const size = height * width;
		const map = new Float32Array(size);
		for (let c = 0; c < channels; c++) {
			for (let p = 0; p < size; p++) map[p] += weight[classNumber * channels + c] * values[c * size + p];
		}
		const positive = map.map((value) => Math.max(value, 0));
		const low = Math.min(...positive);
		const high = Math.max(...positive);
		return positive.map((value) => (value - low) / (high > low ? high - low : 1));
	}

	stem(picture) {
		const { mean, std, image_size, stem } = this.packed;
		const [height, width] = image_size;
		const size = height * width;
		const values = picture.map((value, i) => (value - mean[Math.floor(i / size)]) / std[Math.floor(i / size)]);
		const norms = this.tensors["norms.stem"];
		const out = relu(this.conv({ values, channels: 3, height, width }, stem, norms, 0));
		return stem.pool ? maxPool(out) : out;
	}

	/** The residual branch and the shortcut of a block, with the statistics of the bits before it. */
	branch(block, depth, input, prefix) {
		const row = this.packed.prefixes[depth].indexOf(prefix) + 1; // 0: the network's own
		const [, length] = this.packed.tensors[`norms.${depth}`].shape;
		const norms = this.tensors[`norms.${depth}`].subarray(row * length, (row + 1) * length);
		let y = input;
		let at = 0;
		block.convs.forEach((layer, i) => {
			y = this.conv(i ? relu(y) : y, layer, norms, at);
			at += 2 * y.channels;
		});
		return { y, shortcut: block.shortcut ? this.conv(input, block.shortcut, norms, at) : input };
	}

	/** What the block gives: its branch, through the attention where the bit is on, and its shortcut. */
	merge(block, { y, shortcut }, bit, state) {
		if (bit !== "1") return { bit, gates: null, state, output: relu(added(shortcut, y)) };
		const { kind, groups } = this.packed.attention[block.attention];
		const part = (name) => this.layer(`attention${block.attention}${name && "."}${name}`);
		const attended = ATTENTION[kind](y, part, state, groups);
		const output = relu(added(shortcut, gated(y, attended.gates, groups)));
		return { bit, gates: attended.gates, state: attended.state, output };
	}

	conv(input, { weight, ...movement }, norms, at) {
		const { shape } = this.packed.tensors[weight];
		const [outputs] = shape;
		const factor = norms.subarray(at, at + outputs);
		const shift = norms.subarray(at + outputs, at + 2 * outputs);
		const layer = { weight: this.tensors[weight], scale: this.tensors[`${weight}.scale`], shape, ...movement };
		return convolve(input, layer, factor, shift);
	}

	/** Weight, scale and bias of a linear layer; an SGE module has the weight and bias of its groups. */
	layer(name) {
		const weight = name in this.tensors ? name : `${name}.weight`;
		return { weight: this.tensors[weight], scale: this.tensors[`${weight}.scale`], bias: this.tensors[`${name}.bias`] };
	}
}
