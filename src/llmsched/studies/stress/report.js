// A click on a column's title sorts its table: numbers by size, the rest by text.
for (const title of document.querySelectorAll("th")) {
  title.onclick = () => {
    const body = title.closest("table").tBodies[0], down = title.ariaSort === "ascending";
    const text = row => row.cells[title.cellIndex].textContent.replace(/[≈,]/g, "").trim();
    const number = row => parseFloat(text(row).replace("−", "-"));
    const order = (a, b) => number(a) - number(b) || text(a).localeCompare(text(b));
    for (const other of title.parentNode.cells) other.removeAttribute("aria-sort");
    title.ariaSort = down ? "descending" : "ascending";
    body.append(...[...body.rows].sort((a, b) => down ? order(b, a) : order(a, b)));
  };
}
