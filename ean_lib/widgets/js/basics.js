/* Small functions that every other file uses. */

export const sum = (values) => values.reduce((total, value) => total + value, 0);
export const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
export const known = (value) => value !== null && value !== undefined;
export const list = (length, make) => Array.from({ length }, (_, i) => make(i));
export const percent = (value) => `${value.toFixed(2)} %`;
export const whole = (value) => Math.round(value).toLocaleString("en-US");

/** A signed share as percent, with a minus sign that is as wide as the plus. */
export function signedPercent(share) {
	return `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)} %`;
}

/** The interval that holds all values, a share of its length wider at both ends. */
export function range(values, share) {
	const [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
	const margin = (high - low) * share || 1;
	return [low - margin, high + margin];
}
