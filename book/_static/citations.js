// docutils marks the entries of a bibliography as doc-biblioentry, a role that ARIA has withdrawn and that, once an entry
// links back to where it is cited, is no valid child of a list. They are list items.
document.addEventListener("DOMContentLoaded", () => {
  for (const entry of document.querySelectorAll(".citation-list > .citation")) entry.setAttribute("role", "listitem");
});
