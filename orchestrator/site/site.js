(() => {
  const table = document.querySelector("table.board"), form = document.querySelector("form.controls");
  if (!table || !form) return;
  const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
  const state = { q: "", type: "", size: "", sort: "" };
  const value = (row, column) => {
    const cell = row.cells[column], given = cell.dataset.value;
    if (given === undefined) return cell.textContent.trim().toLowerCase();
    return given === "" || given === "None" ? null : Number(given);
  };
  const compare = (one, other) => (typeof one === "string" ? one.localeCompare(other) : one - other);
  const draw = () => {
    const column = parseInt(state.sort, 10), down = state.sort.endsWith("d"), ordered = [...rows];
    if (column >= 0 && column < heads.length) {
      ordered.sort((a, b) => {
        const x = value(a, column), y = value(b, column);
        if (x === null || y === null) return (x === null) - (y === null);
        return down ? compare(y, x) : compare(x, y);
      });
    }
    let shown = 0;
    for (const row of ordered) {
      const size = row.dataset.size, limit = Number(state.size);
      row.hidden = !row.cells[1].textContent.toLowerCase().includes(state.q.toLowerCase())
        || (state.type !== "" && row.dataset.type !== state.type)
        || (state.size !== "" && !(size !== "" && Number(size) <= limit));
      shown += !row.hidden;
    }
    body.append(...ordered);
    heads.forEach((head, at) => {
      if (at === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    form.querySelector("output").textContent = `${shown} of ${rows.length} models`;
  };
  const read = () => {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const key of Object.keys(state)) state[key] = given.get(key) ?? "";
    for (const key of ["q", "type", "size"]) form.elements[key].value = state[key];
    draw();
  };
  const write = () => {
    const kept = Object.entries(state).filter(([, text]) => text !== "");
    history.replaceState(null, "", kept.length ? `#${new URLSearchParams(kept)}` : location.href.split("#")[0]);
    draw();
  };
  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = at < 2 ? "a" : "d", second = at < 2 ? "d" : "a";
      state.sort = state.sort === `${at}${first}` ? `${at}${second}` : `${at}${first}`;
      write();
    });
  });
  form.addEventListener("input", (event) => {
    state[event.target.name] = event.target.value;
    write();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", read);
  form.hidden = false;
  read();
})();
