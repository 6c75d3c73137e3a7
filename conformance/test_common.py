"""Items 1 to 15: what holds for every transaction (PS3.18 section 8)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import related
from peer import DICOM, JSON, MULTIPART_DICOM, OCTETS, XML, Peer, path_of
from studies import Collection

Option = Callable[[str], str]


def json_resources(held: Collection) -> list[str]:
    study, series = held.study, held.ct[0].SeriesInstanceUID
    return [
        f"/studies?StudyInstanceUID={study}",
        f"/studies/{study}/series",
        f"/studies/{study}/instances",
        f"/studies/{study}/metadata",
        f"/studies/{study}/series/{series}/metadata",
        f"{path_of(held.ct[0])}/metadata",
    ]


def test_item_01_a_json_resource_asked_for_as_tiff_is_406_with_a_list_of_what_there_is(
    peer: Peer, held: Collection
) -> None:
    """8.7.8, 8.5."""
    for resource in json_resources(held):
        response = peer.get(resource, "image/tiff")
        assert response.status_code == 406, f"{resource}: {response.status_code}"
        assert JSON in response.text, f"{resource}: the body does not list {JSON}: {response.text[:200]}"


def test_item_02_without_accept_the_default_media_type_comes(peer: Peer, held: Collection) -> None:
    """8.7.4, 8.7.8."""
    for resource in json_resources(held):
        response = peer.get(resource)
        assert "accept" not in response.request.headers
        assert response.status_code == 200 and response.headers["content-type"].startswith(JSON), resource


def test_item_03_any_type_gives_the_default_media_type(peer: Peer, held: Collection) -> None:
    """8.7.8."""
    for resource in json_resources(held):
        response = peer.get(resource, "*/*")
        assert response.status_code == 200 and response.headers["content-type"].startswith(JSON), resource


def test_item_04_the_accept_parameter_beats_the_header(peer: Peer, held: Collection) -> None:
    """8.7.8.1."""
    for accept in ("image/tiff", XML):
        response = peer.get(f"/studies/{held.study}/metadata?accept=application/dicom%2Bjson", accept)
        assert response.status_code == 200 and response.headers["content-type"].startswith(JSON), accept


def test_item_05_several_types_with_q_values_give_the_best_supported_one(peer: Peer, held: Collection) -> None:
    """8.7.8; RFC 9110 12.5.1."""
    response = peer.get(f"/studies/{held.study}/metadata", f"text/plain;q=0.1, image/tiff, {JSON};q=0.5")
    assert response.status_code == 200 and response.headers["content-type"].startswith(JSON)
    for accept, best in (
        ("image/tiff, image/png;q=0.9, image/jpeg;q=0.3", "image/png"),
        ("image/png;q=0.2, image/jpeg;q=0.8", "image/jpeg"),
    ):
        response = peer.get(f"{path_of(held.ct[0])}/rendered", accept)
        assert response.status_code == 200 and response.headers["content-type"].startswith(best), accept


def test_item_06_an_unknown_query_parameter_is_ignored(peer: Peer, held: Collection) -> None:
    """8.3.1; Supplement 183."""
    expected = peer.search("/studies", StudyInstanceUID=held.study)
    assert peer.search("/studies", StudyInstanceUID=held.study, conformance="unheard-of") == expected
    assert peer.get(f"/studies/{held.study}/metadata?conformance=unheard-of", JSON).status_code == 200


def test_item_07_a_malformed_uid_is_400_and_an_unknown_one_404(peer: Peer, held: Collection) -> None:
    """8.5; PS3.5 9.1."""
    instance = path_of(held.ct[0]).replace(held.study, "{study}")
    for path in ("/studies/{study}/metadata", "/studies/{study}", instance):
        for malformed in ("not-a-uid", "1.2.x", "1" * 65):
            response = peer.get(path.format(study=malformed))
            assert response.status_code == 400, f"{path} of {malformed}: {response.status_code}"
        response = peer.get(path.format(study="1.2.826.0.1.3680043.2.1143.404"))
        assert response.status_code == 404, f"{path} of an unknown study: {response.status_code}"


def test_item_08_a_wrong_method_is_405_with_allow(peer: Peer, held: Collection) -> None:
    """8.5; RFC 9110 15.5.6."""
    for method, path in (("PUT", "/studies"), ("POST", f"/studies/{held.study}/metadata"), ("PATCH", "/studies")):
        response = peer.request(method, path)
        assert response.status_code == 405, f"{method} {path}: {response.status_code}"
        assert "GET" in response.headers["allow"]


def test_item_09_options_describes_the_capabilities_for_machines(peer: Peer) -> None:
    """8.9, Annex H."""
    for accept in ("", "application/vnd.sun.wadl+xml"):
        response = peer.request("OPTIONS", "/", headers={"Accept": accept} if accept else {})
        assert response.status_code == 200, response.status_code
        assert response.headers["content-type"].startswith("application/vnd.sun.wadl+xml")
        root = ElementTree.fromstring(response.content)
        assert root.tag.endswith("}application")
        assert any("studies" in resource.attrib.get("path", "") for resource in root.iter())


def test_item_10_a_preflight_from_the_viewers_origin_is_answered(peer: Peer, held: Collection, option: Option) -> None:
    """Beyond the standard: Fetch, CORS protocol."""
    origin = option("--origin")
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,authorization",
    }
    response = peer.request("OPTIONS", "/studies", headers=asked, token="")
    assert response.status_code in (200, 204)
    assert response.headers["access-control-allow-origin"] in (origin, "*")
    assert "POST" in response.headers["access-control-allow-methods"]
    allowed = response.headers["access-control-allow-headers"].lower()
    assert allowed == "*" or {"content-type", "authorization"} <= set(allowed.replace(" ", "").split(","))
    answer = peer.get(f"/studies/{held.study}/series", JSON, {"Origin": origin})
    assert answer.headers["access-control-allow-origin"] in (origin, "*")
    foreign = peer.request("OPTIONS", "/studies", headers={**asked, "Origin": "https://foreign.invalid"}, token="")
    assert "foreign" not in foreign.headers.get("access-control-allow-origin", "")


def test_item_11_no_token_is_401_and_a_token_without_the_role_403(peer: Peer, held: Collection, option: Option) -> None:
    """6, 8.5; RFC 9110 11.6."""
    option("--token")
    for path in ("/studies", f"/studies/{held.study}", f"{path_of(held.ct[0])}/frames/1", "/workitems"):
        for token in ("", "not-a-token"):
            response = peer.request("GET", path, token=token)
            assert response.status_code == 401, f"{path}: {response.status_code}"
            assert response.headers["www-authenticate"]
            assert held.word.encode() not in response.content
    reader = option("--reader-token")
    assert peer.request("GET", f"/studies/{held.study}/series", token=reader).status_code == 200
    body, content_type = related.write([], DICOM)
    headers = {"Content-Type": content_type}
    assert peer.request("POST", "/studies", token=reader, headers=headers, content=body).status_code == 403


def test_item_12_every_multipart_answer_has_a_boundary_a_quoted_type_and_types_of_parts(
    peer: Peer, held: Collection
) -> None:
    """8.6.1.2; RFC 2387, RFC 2046 5.1.1."""
    instance = path_of(held.ct[0])
    for path, accept in (
        (f"/studies/{held.study}", MULTIPART_DICOM),
        (f"/studies/{held.study}/series/{held.ct[0].SeriesInstanceUID}", MULTIPART_DICOM),
        (f"{instance}/frames/1", OCTETS),
    ):
        response = peer.get(path, accept)
        assert response.status_code == 200, f"{path}: {response.status_code}"
        _, found = related.parameters(response.headers["content-type"])
        assert f'type="{found["type"]}"' in response.headers["content-type"], "the type parameter is not quoted"
        for part in related.read(response):
            assert part.content_type.partition(";")[0] == found["type"].partition(";")[0]


def test_item_13_metadata_has_an_etag_and_is_304_when_held(peer: Peer, held: Collection) -> None:
    """Beyond the standard: RFC 9110 8.8.3, 13.1.2."""
    path = f"/studies/{held.study}/series/{held.ct[0].SeriesInstanceUID}/metadata"
    tag = peer.get(path, JSON).headers["etag"]
    again = peer.get(path, JSON, {"If-None-Match": tag})
    assert again.status_code == 304 and not again.content
    assert peer.get(path, JSON, {"If-None-Match": '"another"'}).status_code == 200


def test_item_14_json_is_compressed_for_those_who_take_it(peer: Peer, held: Collection) -> None:
    """Beyond the standard: RFC 9110 8.4."""
    path = f"/studies/{held.study}/metadata"
    packed = peer.get(path, JSON, {"Accept-Encoding": "gzip"})
    plain = peer.get(path, JSON, {"Accept-Encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.json() == plain.json()


def test_item_15_under_load_every_request_is_answered_200_or_503_with_retry_after(peer: Peer, held: Collection) -> None:
    """8.5; RFC 9110 15.6.4."""

    def ask(number: int) -> str:
        path = (f"/studies/{held.study}", f"/studies/{held.study}/metadata", "/studies?limit=20")[number % 3]
        response = peer.get(path)
        retry = response.headers.get("retry-after", "")
        return "ok" if response.status_code == 200 or (response.status_code == 503 and retry) else response.text[:200]

    with ThreadPoolExecutor(48) as threads:
        assert set(threads.map(ask, range(240))) == {"ok"}


def test_an_error_is_told_without_data_of_patients(peer: Peer, held: Collection) -> None:
    """Beyond the checklist."""
    response = peer.get("/studies", JSON, PatientName=held.word, StudyDate="nonsense")
    assert response.status_code == 400 and held.word not in response.text
