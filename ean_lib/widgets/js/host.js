// In a page without a kernel: what the widget's module finds in place of a kernel's model. NAME is the widget's.
{
  const place = document.querySelector(".ean-place[data-name='NAME']:not([data-started])");
  const state = { linked: true, ...JSON.parse(place.querySelector("script").textContent) };
  const listeners = {};
  const on = (event, listener) => (listeners[event] ??= []).push(listener);
  const off = (event, gone) => (listeners[event] = listeners[event].filter((listener) => listener !== gone));
  const call = (event) => (listeners[event] ?? []).forEach((listener) => listener());
  const set = (key, value) => ((state[key] = value), call(`change:${key}`));
  place.dataset.started = "";
  render({ model: { get: (key) => state[key], set, on, off, save_changes() {} }, el: place });
}
