// What OHIF 3.13 fails on, mended by means of its own configuration.
(() => {
  const items = (sequence) => (sequence ? [].concat(sequence) : []);
  const surface = (item) => item.ValueType === 'SCOORD3D' && name(item)?.CodeValue === '121231'; // Volume Surface
  const drawn = (item) =>
    (item.ValueType?.startsWith('SCOORD') && !surface(item)) || items(item.ContentSequence).some(drawn);
  const name = (item) => items(item.ConceptNameCodeSequence)[0];
  const named = (item, seriesOf) => {
    if (item.ContinuityOfContent) item.ContinuityOfContent = 'SEPARATE';
    if (item.ValueType === 'IMAGE') { // no text shows an image: it says in which series it is
      const uid = items(item.ReferencedSOPSequence)[0]?.ReferencedSOPInstanceUID;
      item.ValueType = 'TEXT';
      Object.defineProperty(item, 'TextValue', { get: () => seriesOf(uid) ?? uid }); // by then all are listed
    }
    if (items(item.ContentSequence).some(surface)) {
      item.ContentSequence = items(item.ContentSequence).filter((child) => !surface(child));
    }
    for (const child of items(item.ContentSequence)) {
      if (item.ValueType === 'NUM' && name(child)?.CodeValue === '121401') { // Derivation: mean, maximum, …
        name(item).CodeMeaning += `, ${items(child.ConceptCodeSequence)[0]?.CodeMeaning}`;
      }
      named(child, seriesOf);
    }
  };

  // A measurement report without coordinates (TID 1411 refers to a segment instead), or with none but polygons around
  // a volume, leaves its viewport empty: it is shown as any other document, as text, each value with its name.
  window.config.extensions.push({
    id: 'imaging-ai.reports',
    preRegistration: ({ servicesManager: { services } }) => {
      const { displaySetService } = services;
      const seriesOf = (uid) =>
        displaySetService
          .getActiveDisplaySets()
          .find((one) => [one, ...items(one.instances)].some(({ SOPInstanceUID }) => SOPInstanceUID === uid))
          ?.SeriesDescription;
      displaySetService.subscribe(displaySetService.EVENTS.DISPLAY_SETS_ADDED, ({ displaySetsAdded }) => {
        for (const report of displaySetsAdded) {
          if (!report.isImagingMeasurementReport || drawn(report.instance)) continue;
          report.isImagingMeasurementReport = false;
          named(report.instance, seriesOf);
        }
      });
    },
  });

  // A parametric map may come after its viewport was drawn, and would be seen only at the next touch.
  window.config.extensions.push({
    id: 'imaging-ai.maps',
    preRegistration: ({ servicesManager: { services } }) => {
      const { segmentationService, cornerstoneViewportService } = services;
      const draw = () => cornerstoneViewportService.getRenderingEngine?.()?.render();
      segmentationService?.subscribe(segmentationService.EVENTS.SEGMENTATION_LOADING_COMPLETE, ({ pmapDisplaySet }) => {
        if (pmapDisplaySet) [0, 500, 2000].forEach((wait) => setTimeout(draw, wait));
      });
    },
  });

  // Beside coordinates, a group without them is an error, and POLYGON (PS3.3 C.18.9.1.2) is no shape that is known.
  window.config.customizationService.push({
    autoCineModalities: { $set: ['US'] }, // pictures of findings (OT) are no film
    onBeforeSRAddMeasurement: {
      $set: ({ measurement }) => {
        if (!measurement.coords.length) measurement.coords.push({});
        for (const one of measurement.coords) {
          if (one.ValueType === 'SCOORD3D' && one.GraphicType === 'POLYGON') one.GraphicType = 'POLYLINE';
        }
        return measurement;
      },
    },
  });
})();
