/* The numbers of the scheme that is shown: what is on, how good it is, what it costs. */

import { known, percent, signedPercent, whole } from "./basics.js";
import { button, card, h, row, set } from "./dom.js";

export class Numbers {
	constructor(app) {
		this.app = app;
		this.cells = {};
		const cell = ([key, label], i) => {
			this.cells[key] = [h(i ? "dd.x-value" : "dd.x-value x-large"), h("dd.x-note")];
			return h("div", h("dt", label), this.cells[key]);
		};
		const group = (title, ...cells) => card(title, h("dl", cells.map(cell)));
		const on = group("What is on", ["connected", "Connected blocks"], ["scheme", "Connection scheme"]);
		this.copyButton = button("", () => this.copy());
		this.link = h("a", { hidden: !app.linked }, "Link");
		on.append(row(this.copyButton, this.link));
		const good = group("How good it is",
			["supernet", "Accuracy in the supernet"],
			["alone", "Accuracy trained alone"],
		);
		const cost = group("What it costs",
			["extra_parameters", "Extra parameters"],
			["extra_macs", "Extra multiply–adds per image"],
			["time", "Extra inference time"],
		);
		this.element = h("div.x-cards", on, good, cost);
	}

	/** Copy the scheme, and select it, so that the reader can copy where a page must not. */
	copy() {
		const [text] = this.cells.scheme;
		const done = () => (this.copyButton.textContent = "Copied");
		getSelection().selectAllChildren(text);
		navigator.clipboard?.writeText(text.textContent).then(done, () => {});
	}

	update(point) {
		const { table, live, waiting, key } = this.app;
		const { supernet, alone, time } = point;
		/** A value and its note; where there is none, why. */
		const put = (name, value, note = "") => {
			const [large, small] = this.cells[name];
			const asked = live && name !== "alone" && name !== "time";
			const unscored = waiting ? "working …" : "not scored";
			large.textContent = value || (asked ? unscored : "not measured");
			large.classList.toggle("x-missing", !value);
			small.textContent = value ? note : "";
		};
		const extra = (name, base) => {
			const share = `${((100 * point[name]) / base).toPrecision(2)} % of the backbone's ${base && whole(base)}`;
			put(name, known(point[name]) && `+${whole(point[name])}`, base ? share : "");
		};
		put("connected", `${point.connected} of ${table.blocks}`, `sparsity ${point.sparsity.toFixed(2)}`);
		put("scheme", point.text);
		put("supernet", known(supernet) && percent(supernet), this.app.ranked(point));
		const [mean, std, runs] = alone ?? [];
		const spread = known(std) && ` ± ${std.toFixed(2)}`;
		put("alone", alone && `${mean.toFixed(2)}${spread || ""} %`, spread ? `mean ± std of ${runs} runs` : "one run");
		extra("extra_parameters", table.raw.parameters);
		extra("extra_macs", table.raw.macs);
		const [increment, low, high] = time ?? [];
		const quartiles = known(low) && `, half of the turns between ${signedPercent(low)} and ${signedPercent(high)}`;
		put("time", time && signedPercent(increment), `over the backbone${quartiles || ""}`);
		set(this.link, { href: `#${key}=${point.text}` });
		this.copyButton.textContent = "Copy";
	}
}
