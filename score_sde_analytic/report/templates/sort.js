// Without scripts tables lie best first. With them a button in each head of table[data-sortable] sorts by its column.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  if (body.rows.length < 2) continue;
  const value = (row, index) => {
    const cell = row.cells[index];
    const given = cell?.dataset.order ?? (index ? "" : cell?.textContent.trim() ?? "");
    return given !== "" && isFinite(given) ? Number(given) : given;
  };
  const sort = (index, down) => {
    const order = (a, b) => {
      const [x, y] = [value(a, index), value(b, index)];
      if (x === "" || y === "") return (x === "") - (y === ""); // what is not known stays below
      const size = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return down ? -size : size;
    };
    body.append(...[...body.rows].sort(order));
    heads.forEach((head, at) => at === index ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
  };
  heads.forEach((head, index) => {
    if (index && ![...body.rows].some((row) => value(row, index) !== "")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sort(index, head.getAttribute("aria-sort") === "ascending"));
    head.append(button);
  });
}
