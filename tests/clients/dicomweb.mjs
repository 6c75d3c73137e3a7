// What a browser's client does with a server: npm dicomweb-client with dcmjs, on Node.
//
//     node dicomweb.mjs http://host/dicom-web FILE...
//
// Stores the files (instances of one series), searches and retrieves them in every way, and prints what it got as JSON.

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
globalThis.XMLHttpRequest = require("xhr2");
const { api } = require("dicomweb-client");
const { data } = require("dcmjs");

const digest = (buffer) => createHash("sha256").update(new Uint8Array(buffer)).digest("hex");
const parsed = (buffer) => {
  const file = data.DicomMessage.readFile(buffer);
  const dataset = data.DicomMetaDictionary.naturalizeDataset(file.dict);
  const meta = data.DicomMetaDictionary.naturalizeDataset(file.meta);
  const pixels = Array.isArray(dataset.PixelData) ? dataset.PixelData[0] : dataset.PixelData;
  return { uid: dataset.SOPInstanceUID, transferSyntax: meta.TransferSyntaxUID, pixels: digest(pixels) };
};

const [url, ...paths] = process.argv.slice(2);
const files = await Promise.all(paths.map((path) => readFile(path)));
const datasets = files.map((file) => file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength));
const first = data.DicomMetaDictionary.naturalizeDataset(data.DicomMessage.readFile(datasets[0]).dict);
const study = { studyInstanceUID: first.StudyInstanceUID };
const series = { ...study, seriesInstanceUID: first.SeriesInstanceUID };
const instance = { ...series, sopInstanceUID: first.SOPInstanceUID };

const client = new api.DICOMwebClient({ url });
await client.storeInstances({ datasets });
const studies = await client.searchForStudies({ queryParams: { StudyInstanceUID: first.StudyInstanceUID } });
const metadata = await client.retrieveSeriesMetadata(series);
const natural = metadata.map((one) => data.DicomMetaDictionary.naturalizeDataset(one));
const here = metadata.find((one) => one["00080018"].Value[0] === first.SOPInstanceUID);
const [frame] = await client.retrieveInstanceFrames({ ...instance, frameNumbers: [1] });
const [bulk] = await client.retrieveBulkData({ BulkDataURI: here["7FE00010"].BulkDataURI });
const rendered = await client.retrieveInstanceRendered({ ...instance, mediaTypes: [{ mediaType: "image/png" }] });
const thumbnail = await client.retrieveInstanceThumbnail({ ...instance, mediaTypes: [{ mediaType: "image/jpeg" }] });

console.log(
  JSON.stringify({
    studies: studies.map((one) => data.DicomMetaDictionary.naturalizeDataset(one).StudyInstanceUID),
    series: (await client.searchForSeries(study)).length,
    instances: (await client.searchForInstances(series)).length,
    study: (await client.retrieveStudy(study)).map(parsed),
    seriesInstances: (await client.retrieveSeries(series)).map(parsed),
    instance: parsed(await client.retrieveInstance(instance)),
    rows: natural.map((one) => one.Rows),
    patient: String(natural[0].PatientName?.[0]?.Alphabetic ?? natural[0].PatientName),
    frame: digest(frame),
    bulk: digest(bulk),
    rendered: Buffer.from(new Uint8Array(rendered.flat?.()[0] ?? rendered).slice(0, 4)).toString("hex"),
    thumbnail: Buffer.from(new Uint8Array(thumbnail.flat?.()[0] ?? thumbnail).slice(0, 3)).toString("hex"),
  }),
);
