// Without scripts every choice is shown. With them, [data-choose="1"] shows one choice (or all), [data-choose="2"] a pair.
const groups = new Map();
for (const box of document.querySelectorAll("[data-choose]")) {
  const choices = [...box.querySelectorAll(":scope > [data-choice]")];
  if (choices.length < 2) continue;
  const bar = document.createElement("div");
  bar.className = "chooser";
  const selects = Array.from({ length: Number(box.dataset.choose) }, (_, index) => {
    const select = document.createElement("select");
    const pair = box.dataset.choose === "2";
    select.setAttribute("aria-label", ["Show", "Beside it"][index]);
    select.add(new Option(index ? "beside it: –" : "show all", ""));
    for (const choice of choices) select.add(new Option(choice.dataset.choice));
    if (!pair) select.selectedIndex = 1;
    bar.append(select);
    return select;
  });
  const show = () => {
    const wanted = selects.map((select) => select.value);
    for (const choice of choices) choice.hidden = wanted[0] !== "" && !wanted.includes(choice.dataset.choice);
  };
  const members = groups.get(box.dataset.group) ?? [];
  groups.set(box.dataset.group, [...members, { selects, show }]);
  selects.forEach((select, index) => select.addEventListener("change", () => {
    for (const member of groups.get(box.dataset.group)) {
      member.selects[index].selectedIndex = select.selectedIndex;
      member.show();
    }
  }));
  box.prepend(bar);
  show();
}
