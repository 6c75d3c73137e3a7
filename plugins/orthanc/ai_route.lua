-- Sends every series that Orthanc holds completely to imaging-ai, by C-STORE. Needs no plugin.
--
-- The name of the modality comes from IMAGING_AI_MODALITY or the section "ImagingAI" of Orthanc's configuration.
-- What was sent is remembered in a metadata of the series, so that the same instances go once. A transfer that fails
-- is seen in /jobs and can be resubmitted there; the Python plugin beside this file tries again by itself.

local section = GetOrthancConfiguration()['ImagingAI'] or {}
local modality = os.getenv('IMAGING_AI_MODALITY') or section['Modality'] or 'ai'
local metadataNumber = tostring(section['Metadata'] or 5120)

-- Results, and what no model reads: sending them would make a result's arrival a new input, for ever.
local skipped = {}
for _, name in ipairs(section['Skip'] or { 'SEG', 'SR', 'KO', 'PR', 'DOC', 'RTSTRUCT', 'RTPLAN', 'RTDOSE', 'REG',
                                           'FID', 'AU', 'HC' }) do
  skipped[name] = true
end

local function digest(instances)
  table.sort(instances)
  local sum = 5381
  for _, id in ipairs(instances) do
    for position = 1, #id do
      sum = (sum * 33 + string.byte(id, position)) % 4294967296
    end
  end
  return string.format('%d-%d', #instances, sum)
end

local function metadataOf(series, wanted)
  for _, name in ipairs(ParseJson(RestApiGet('/series/' .. series .. '/metadata'))) do
    if name == wanted then
      return RestApiGet('/series/' .. series .. '/metadata/' .. wanted)
    end
  end
  return ''
end

-- Maps and pictures have a Modality that others have, too.
local function cameFromThere(series)
  local sender = metadataOf(series, 'RemoteAET')
  return sender ~= '' and sender == ParseJson(RestApiGet('/modalities/' .. modality .. '/configuration'))['AET']
end

function OnStableSeries(series, tags, metadata)
  if skipped[tags['Modality'] or ''] or cameFromThere(series) then
    return
  end
  local now = digest(ParseJson(RestApiGet('/series/' .. series))['Instances'])
  if now == metadataOf(series, metadataNumber) then
    return
  end
  RestApiPost('/modalities/' .. modality .. '/store', DumpJson({ Resources = { series }, Synchronous = false }, true))
  RestApiPut('/series/' .. series .. '/metadata/' .. metadataNumber, now)
end
