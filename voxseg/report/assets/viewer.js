// The interactive viewer. Scenes lie in the page as JSON, scene-0, scene-1, ...: scans and label maps as compressed
// NIfTI files in base64. NiiVue draws them; this file connects it with the controls and switches of the page.
(async () => {
  "use strict";
  const find = (id) => document.getElementById("viewer-" + id);
  const message = find("message");
  const tell = (text) => {
    message.textContent = text;
    message.hidden = !text;
  };
  const pictures = "The pictures and tables on this page do not need it.";
  const probe = document.createElement("canvas").getContext("webgl2");
  if (!probe) {
    tell("This browser offers no WebGL 2, which the interactive viewer needs. " + pictures);
    return;
  }

  // Drawing 3D without graphics hardware takes seconds: there it waits until it is asked for.
  const driver = probe.getParameter(probe.getExtension("WEBGL_debug_renderer_info")?.UNMASKED_RENDERER_WEBGL ?? probe.RENDERER);
  const slow = /swiftshader|llvmpipe|softpipe|software|basic render/i.test(driver);
  probe.getExtension("WEBGL_lose_context")?.loseContext();

  const canvas = find("canvas");
  const switches = [...document.querySelectorAll("input.toggle")];
  const hidden = new Map(); // legend -> set of class indices that are switched off
  const nv = new niivue.Niivue({
    backColor: [0, 0, 0, 1],
    crosshairColor: [1, 0.82, 0.29, 0.8],
    crosshairWidth: 0.7,
    crosshairWidthUnit: "mm",
    crosshairGap: 8,
    fontColor: [1, 0.82, 0.29, 1],
    dragAndDropEnabled: false,
    viewModeHotKey: "",
    clipPlaneHotKey: "",
    cycleClipPlaneHotKey: "",
    isRadiologicalConvention: true,
    sagittalNoseLeft: true,
    showAllOrientationMarkers: true,
    scrollRequiresFocus: true,
    multiplanarLayout: niivue.MULTIPLANAR_TYPE.GRID,
    multiplanarPadPixels: 12,
    loadingText: "",
    logLevel: "error",
  });
  const VIEWS = {
    all: nv.sliceTypeMultiplanar,
    planes: nv.sliceTypeMultiplanar,
    axial: nv.sliceTypeAxial,
    coronal: nv.sliceTypeCoronal,
    sagittal: nv.sliceTypeSagittal,
    render: nv.sliceTypeRender,
  };
  // Turning the wheel scrolls the page, and slices once the viewer has been clicked at.
  const scrolls = (event) => document.activeElement !== canvas && event.stopPropagation();
  canvas.parentElement.addEventListener("wheel", scrolls, { capture: true });

  let scene = null; // what is shown, as its JSON says
  let shownMap = null;

  const hiddenOf = (legend) => hidden.get(legend) ?? hidden.set(legend, new Set()).get(legend);

  // The colour table of a label map.
  function colours(map) {
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
    for (const [index, name, colour] of map.labels) {
      table.R.push(parseInt(colour.slice(1, 3), 16));
      table.G.push(parseInt(colour.slice(3, 5), 16));
      table.B.push(parseInt(colour.slice(5, 7), 16));
      table.A.push(255);
      table.I.push(index);
      table.labels.push(name);
    }
    return table;
  }

  // Take the switches, the opacity and the outlines over to the label map on the canvas.
  function dress() {
    const volume = nv.volumes[1];
    const off = hiddenOf(shownMap.legend);
    const kept = Uint8Array.from({ length: 256 }, (_, index) => (off.has(index) ? 0 : index));
    const source = shownMap.classes;
    for (let k = 0; k < source.length; k++) volume.img[k] = kept[source[k]];
    const opacity = Number(find("opacity").value) / 100;
    const outline = find("outline").checked;
    volume.opacity = outline ? 0 : opacity;
    nv.opts.atlasOutline = outline ? opacity : 0;
  }

  const option = (text, value) => {
    const element = document.createElement("option");
    element.textContent = text;
    element.value = value;
    return element;
  };

  // Show only those controls that leave a choice.
  function fill(select, names) {
    select.replaceChildren(...names.map(option));
    select.closest("label").hidden = names.length < 2;
  }

  // Volumes of the scene, decompressed when they are first shown.
  let loaded = new Map();
  async function load(key, data, options) {
    if (!loaded.has(key)) loaded.set(key, await niivue.NVImage.loadFromBase64({ base64: data, name: key, ...options }));
    return loaded.get(key);
  }

  async function background(index) {
    const image = scene.images[index];
    if (image) {
      return load(`image-${index}.nii.gz`, image.data, { colormap: "gray", cal_min: image.low, cal_max: image.high });
    }
    // Black in the grid of the labels, for them to lie on.
    const volume = await load("black.nii.gz", scene.maps[0].data, { colormap: "gray", cal_min: 0, cal_max: 255 });
    volume.zeroImage();
    return volume;
  }

  // Put a scan and a segmentation of the scene on the canvas.
  async function show(imageIndex, mapIndex) {
    const volumes = [await background(imageIndex)];
    shownMap = scene.maps[mapIndex] ?? null;
    if (shownMap !== null) {
      const map = await load(`map-${mapIndex}.nii.gz`, shownMap.data, {});
      shownMap.classes ??= Uint8Array.from(map.img);
      map.setColormapLabel(colours(shownMap));
      volumes.push(map);
    }
    // All at once: adding them one by one would compute everything for each.
    nv.volumes = volumes;
    nv.back = volumes[0];
    nv.overlays = volumes.slice(1);
    if (shownMap !== null) dress();
    nv.updateGLVolume();
    // For whoever waits for it.
    canvas.dataset.image = imageIndex;
    canvas.dataset.map = mapIndex;
    for (const box of switches) box.hidden = shownMap === null || box.dataset.legend !== shownMap.legend;
    for (const list of document.querySelectorAll("[data-legend-of]")) {
      list.hidden = shownMap === null || list.dataset.legendOf !== shownMap.legend;
    }
  }

  function paint() {
    if (shownMap === null || nv.volumes.length < 2) return;
    dress();
    nv.updateGLVolume();
    tellPlace();
  }

  async function showScene(index) {
    const element = document.getElementById("scene-" + index);
    scene = JSON.parse(element.textContent);
    loaded = new Map();
    fill(find("image"), scene.images.map((image) => image.name));
    fill(find("map"), scene.maps.map((map) => map.name));
    await show(0, 0);
    nv.scene.crosshairPos = nv.mm2frac(scene.start);
    view();
    nv.createOnLocationChange();
    find("notes").textContent = scene.notes.join(" ");
    find("notes").hidden = false;
    canvas.dataset.scene = index;
  }

  let place = null;
  function tellPlace() {
    if (place === null) return;
    const [x, y, z] = place.mm;
    const signed = (value) => (value <= -0.05 ? "\u2212" : "") + Math.abs(value).toFixed(1);
    const parts = [`x ${signed(x)}, y ${signed(y)}, z ${signed(z)} mm`];
    if (shownMap !== null && place.values.length > 1) {
      const [i, j, k] = place.values[1].vox;
      const [, width, height] = nv.volumes[1].hdr.dims;
      const value = shownMap.classes[i + width * (j + height * k)];
      const label = shownMap.labels.find(([index]) => index === value);
      parts.push(label ? label[1] + (hiddenOf(shownMap.legend).has(label[0]) ? " (hidden)" : "") : "no structure");
    }
    if (scene.images.length) parts.push("intensity " + Number(place.values[0].value.toPrecision(4)));
    find("location").textContent = parts.join(" · ");
  }
  nv.onLocationChange = (data) => {
    place = data;
    tellPlace();
  };

  function convention() {
    const neurological = find("neurological").checked;
    nv.opts.isRadiologicalConvention = !neurological;
    nv.drawScene();
    const text = neurological
      ? "Neurological convention: the patient's left is on the left."
      : "Radiological convention, as in the pictures: the patient's left is on the right.";
    find("convention").textContent = text;
  }

  // One after the other: a case is not loaded into the middle of another.
  let queue = Promise.resolve();
  const then = (work) => {
    queue = queue.then(work).catch((error) => tell("The viewer failed: " + error.message));
    return queue;
  };
  function view() {
    const { ALWAYS, NEVER } = niivue.SHOW_RENDER;
    nv.opts.multiplanarShowRender = find("view").value === "all" ? ALWAYS : NEVER;
    nv.opts.crosshairWidth = hairline();
    nv.setSliceType(VIEWS[find("view").value]);
  }
  // The width of the crosshair is in millimetres: about one and a half points, whatever is shown.
  function hairline() {
    if (scene === null) return 1;
    const several = ["all", "planes"].includes(find("view").value) ? 2 : 1;
    return (1.5 * several * scene.extent) / Math.min(canvas.clientWidth, canvas.clientHeight);
  }
  find("view").addEventListener("change", view);
  find("opacity").addEventListener("input", paint);
  find("outline").addEventListener("change", paint);
  find("neurological").addEventListener("change", convention);
  find("scene")?.addEventListener("change", (event) => then(() => showScene(Number(event.target.value))));
  for (const id of ["image", "map"]) {
    find(id).addEventListener("change", () =>
      then(async () => {
        await show(Number(find("image").value), Number(find("map").value));
        nv.createOnLocationChange();
      }),
    );
  }
  function set(box) {
    const off = hiddenOf(box.dataset.legend);
    for (const index of box.dataset.classes.split(" ").map(Number)) {
      if (box.checked) off.delete(index);
      else off.add(index);
    }
  }
  function setAll(checked) {
    for (const box of switches) {
      if (shownMap === null || box.dataset.legend !== shownMap.legend) continue;
      box.checked = checked;
      set(box);
    }
    paint();
  }
  for (const box of switches) {
    box.checked = true; // browsers keep the state of forms when a page is opened again
    box.addEventListener("change", () => {
      set(box);
      paint();
    });
  }
  find("all").addEventListener("click", () => setAll(true));
  find("none").addEventListener("click", () => setAll(false));
  for (const [id, value] of [["view", slow ? "planes" : "all"], ["opacity", "50"], ["scene", "0"]]) {
    if (find(id)) find(id).value = value;
  }
  for (const id of ["outline", "neurological"]) find(id).checked = false;

  await then(async () => {
    tell("Loading …");
    find("stage").hidden = false;
    await nv.attachToCanvas(canvas);
    await showScene(0);
    find("controls").hidden = false;
    find("convention").hidden = false;
    convention();
    tell("");
  });
})();
