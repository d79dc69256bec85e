// The atlas page: filters, permalinks, keys, and what a cell says. Without it the page is its plain tables.
"use strict";

(() => {
  const atlas = document.getElementById("atlas");
  if (!atlas) return;
  const form = atlas.querySelector("form");
  const status = form.querySelector("[role=status]");
  const tip = document.getElementById("atlas-tip");
  const details = document.getElementById("atlas-details");
  const rows = [...atlas.querySelectorAll("tbody tr")];
  const words = new Map(rows.map((row) => [row, `${row.id} ${row.cells[0].textContent}`.toLowerCase()]));

  // Filters, which the address keeps as ?library=…&severity=…&text=…

  function filter() {
    const { library, severity, text } = Object.fromEntries(new FormData(form));
    const wanted = text.toLowerCase().split(/\s+/);
    for (const row of rows) {
      row.hidden =
        (library && !row.id.startsWith(`${library}/`)) ||
        (severity && row.dataset.severity !== severity) ||
        !wanted.every((word) => words.get(row).includes(word));
    }
    for (const section of atlas.querySelectorAll("section")) {
      section.hidden = !section.querySelector("tbody tr:not([hidden])");
      const stop = section.querySelector("[tabindex='0']");
      if (!stop || stop.closest("tr")?.hidden) makeStop(section.querySelector("tbody tr:not([hidden]) td"));
    }
    status.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} patches`;
    if (details.closest("section")?.hidden || document.getElementById(details.dataset.patch)?.hidden) close();
  }

  function keepInAddress(hash) {
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    const search = query.size ? `?${query}` : "";
    history.replaceState(null, "", `${location.pathname}${search}${hash}`);
  }

  function readAddress() {
    const query = new URLSearchParams(location.search);
    for (const field of form.querySelectorAll("[name]")) {
      field.value = query.get(field.name) ?? "";
      if (field.selectedIndex === -1) field.value = ""; // there is no such choice
    }
    filter();
    const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!rows.includes(row)) return;
    if (row.hidden) {
      form.reset();
      filter();
    }
    const cell = row.querySelector("td[class]") ?? row.cells[1];
    if (!cell) return; // nothing of this library was measured
    makeStop(cell);
    open(cell);
    row.scrollIntoView({ block: "center", inline: "nearest" });
  }

  const changed = () => {
    filter();
    keepInAddress(location.hash);
  };
  form.addEventListener("input", changed);
  form.addEventListener("change", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(changed)); // once the fields are empty
  addEventListener("hashchange", readAddress);

  // What a cell says: a tip beside it, and the details of its patch.

  let told; // the cell that the tip speaks of

  function showTip(cell) {
    told = cell;
    tip.textContent = cell.getAttribute("aria-label");
    tip.hidden = false;
    const at = cell.getBoundingClientRect();
    const left = Math.min(at.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const below = at.bottom + tip.offsetHeight < innerHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below ? at.bottom : at.top - tip.offsetHeight}px`;
  }

  function element(name, text, more = {}) {
    return Object.assign(document.createElement(name), { textContent: text }, more);
  }

  function open(cell) {
    const row = cell.parentElement;
    const [link, title] = row.cells[0].children;
    const list = element("ul", "");
    for (const pairs of cell.dataset.pairs?.split("\n") ?? []) list.append(element("li", pairs));
    const heading = element("h3", row.id);
    const shut = element("button", "Close", { type: "button", onclick: close });
    const facts = [row.dataset.severity, row.dataset.claim, `measured: ${row.dataset.measures}`];
    const links = element("p", "");
    links.append(element("a", "Case report", { href: link.href }), " · ");
    links.append(element("a", "Link to this patch", { href: `#${row.id}` }));
    details.replaceChildren(
      heading,
      shut,
      element("p", `${title.textContent}.`),
      element("p", facts.filter(Boolean).join(" · ")),
      element("p", cell.getAttribute("aria-label"), { className: "atlas-said" }),
      ...(list.children.length ? [list] : []),
      links,
    );
    atlas.querySelector("[aria-selected]")?.removeAttribute("aria-selected");
    row.setAttribute("aria-selected", "true");
    details.dataset.patch = row.id;
    row.closest("section").append(details);
    details.hidden = false;
    tip.hidden = true;
  }

  function close() {
    if (details.contains(document.activeElement)) {
      document.getElementById(details.dataset.patch).closest("table").querySelector("[tabindex='0']").focus();
    }
    atlas.querySelector("[aria-selected]")?.removeAttribute("aria-selected");
    delete details.dataset.patch;
    details.hidden = true;
    keepInAddress("");
  }

  const isCell = (target) => target.closest?.("#atlas tbody td");
  document.addEventListener("mouseover", ({ target }) => {
    if (isCell(target)) showTip(isCell(target));
    else if (target !== tip) tip.hidden = true;
  });
  atlas.addEventListener("focusin", ({ target }) => {
    if (isCell(target)) showTip(target);
    else tip.hidden = true;
    if (target.closest("tbody")) makeStop(target);
  });
  atlas.addEventListener("focusout", () => (tip.hidden = true));
  const follow = () => {
    if (!tip.hidden && told.matches(":hover, :focus")) showTip(told);
    else tip.hidden = true;
  };
  document.addEventListener("scroll", follow, { capture: true, passive: true });
  atlas.addEventListener("click", ({ target }) => {
    const cell = isCell(target);
    if (!cell) return;
    open(cell);
    keepInAddress(`#${cell.parentElement.id}`);
  });

  // Keys: each table is one stop for Tab, and arrows go from cell to cell.

  function makeStop(target) {
    if (!target) return;
    for (const stop of target.closest("table").querySelectorAll("[tabindex='0']")) stop.tabIndex = -1;
    target.tabIndex = 0;
  }

  atlas.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      if (tip.hidden && !details.hidden) close();
      tip.hidden = true;
      return;
    }
    const cell = event.target.closest("tbody td, tbody th");
    if (!cell) return;
    if (["Enter", " "].includes(event.key) && cell.tagName === "TD") {
      event.preventDefault();
      cell.click();
      return;
    }
    const shown = [...cell.closest("tbody").rows].filter((row) => !row.hidden);
    const [x, y] = [cell.cellIndex, shown.indexOf(cell.parentElement)];
    const last = cell.parentElement.cells.length - 1;
    const moves = {
      ArrowLeft: [x - 1, y],
      ArrowRight: [x + 1, y],
      ArrowUp: [x, y - 1],
      ArrowDown: [x, y + 1],
      PageUp: [x, y - 10],
      PageDown: [x, y + 10],
      Home: [0, event.ctrlKey ? 0 : y],
      End: [last, event.ctrlKey ? shown.length - 1 : y],
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const [column, line] = moves[event.key];
    const to = shown[Math.min(Math.max(line, 0), shown.length - 1)].cells[Math.min(Math.max(column, 0), last)];
    (to.querySelector("a") ?? to).focus();
  });

  for (const table of atlas.querySelectorAll("table")) {
    table.setAttribute("role", "grid");
    table.parentElement.removeAttribute("tabindex");
    for (const one of table.querySelectorAll("tbody td, tbody a")) one.tabIndex = -1;
  }
  form.hidden = false;
  readAddress();
})();
