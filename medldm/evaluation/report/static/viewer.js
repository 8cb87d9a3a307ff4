/* The viewer of a report: NiiVue over volumes that the page itself holds. Nothing is requested. */
"use strict";

async function startViewer() {
  const root = document.getElementById("viewer");
  const status = document.getElementById("viewer-status");
  const content = JSON.parse(document.getElementById("viewer-data").textContent);
  const canvas = document.getElementById("viewer-canvas");
  if (!canvas.getContext("webgl2")) {
    status.textContent = "This browser offers no WebGL 2, which the viewer needs. The pictures above show the same cases.";
    root.dataset.state = "no-webgl2";
    return;
  }
  const view = new niivue.Niivue({
    dragAndDropEnabled: false,
    backColor: [0, 0, 0, 1],
    crosshairColor: [1, 0.62, 0, 0.6],
    show3Dcrosshair: true,
    isOrientCube: false,
    multiplanarLayout: niivue.MULTIPLANAR_TYPE.GRID,
    multiplanarShowRender: niivue.SHOW_RENDER.ALWAYS,
    crosshairWidth: 0.3,
    loadingText: "",
    logLevel: "error",
  });
  await view.attachToCanvas(canvas, false);
  const choice = document.getElementById("viewer-case");
  const opacity = document.getElementById("viewer-opacity");
  const layout = document.getElementById("viewer-layout");
  content.cases.forEach((each, index) => choice.add(new Option(each.name, String(index))));

  async function show() {
    const chosen = content.cases[Number(choice.value)];
    while (view.volumes.length) view.removeVolume(view.volumes[view.volumes.length - 1]);
    view.addVolume(await niivue.NVImage.loadFromBase64({
      base64: chosen.image, name: "image.nii.gz", colormap: "gray", cal_min: 0, cal_max: 255,
    }));
    if (chosen.labels) {
      const labels = await niivue.NVImage.loadFromBase64({ base64: chosen.labels, name: "labels.nii.gz" });
      labels.setColormapLabel(content.colours);
      view.addVolume(labels);
    }
    fade();
  }
  function fade() {
    if (view.volumes.length > 1) view.setOpacity(1, Number(opacity.value));
    view.updateGLVolume();
  }
  choice.addEventListener("change", show);
  opacity.addEventListener("input", fade);
  layout.addEventListener("change", () => view.setSliceType(Number(layout.value)));
  view.setInterpolation(false);
  view.setSliceType(view.sliceTypeMultiplanar);
  await show();
  view.drawScene();
  status.textContent = "";
  root.dataset.state = "ready";
}

startViewer().catch((error) => {
  document.getElementById("viewer").dataset.state = "failed";
  document.getElementById("viewer-status").textContent = "The viewer could not start: " + error.message;
  console.error(error);
});
