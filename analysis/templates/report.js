"use strict";
// Sorting, the switch of the paper, and the download of the PNG that is shown: the page reads without any of it.
{
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);
  const button = document.getElementById("theme");
  const tell = () => button.setAttribute("aria-pressed", String(isDark()));
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    tell();
  });
  prefersDark.addEventListener("change", tell);
  button.hidden = false;
  tell();

  for (const link of document.querySelectorAll("a.png")) {
    link.href = link.closest("figure").querySelector("img.on-light").src;
    link.hidden = false;
  }

  // Keys are numbers or words; a cell without one comes last, whichever way round.
  const compare = (a, b, kind, sign) => {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    return sign * (kind === "number" ? Number(a) - Number(b) : a.localeCompare(b, "en"));
  };
  const sort = (table, heads, column) => {
    const head = heads[column];
    const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
    const sign = order === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const key = (row) => row.cells[column].dataset.key;
    const rows = [...body.rows].sort((a, b) => compare(key(a), key(b), head.dataset.kind, sign));
    body.append(...rows);
    for (const other of heads) other.setAttribute("aria-sort", other === head ? order : "none");
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const press = document.createElement("button");
      press.type = "button";
      press.append(...head.childNodes);
      press.addEventListener("click", () => sort(table, heads, column));
      head.append(press);
      head.setAttribute("aria-sort", "none");
    });
  }
}
