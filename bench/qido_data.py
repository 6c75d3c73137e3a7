"""A synthetic index of studies to search: `python bench/qido_data.py URL --studies 20000 --instances 10`.

Studies, series and instances go straight into the tables, as if they had come by C-STORE; nothing is on the disk. The
names, dates and modalities are drawn by a fixed seed: every run makes the same. `--dicom FOLDER` writes instead one
small DICOM file for each instance of the same studies, for servers that must be filled from outside.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

ROOT = "1.2.826.0.1.3680043.10.1143.7"
FIRST_DAY, DAYS = date(2015, 1, 1), 3_650
MODALITIES = {"CT": 30, "MR": 20, "DX": 20, "US": 15, "PT": 5, "MG": 5, "XA": 3, "NM": 2}
SOP_CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
OTHER_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.7"
DESCRIPTIONS = ("Head", "Thorax", "Abdomen", "Knee left", "Knee right", "Spine", "Whole body", "Pelvis", "Neck", "Hand")
BEGINNINGS = [
    "Smi",
    "Schmi",
    "Mey",
    "Mül",
    "Wag",
    "Beck",
    "Hof",
    "Koch",
    "Ber",
    "Rich",
    "Klei",
    "Wol",
    "Schrö",
    "Neu",
    "Schwar",
    "Zim",
    "Brau",
    "Krü",
    "Har",
    "Lan",
    "Pet",
    "Jan",
]
ENDINGS = [
    "th",
    "dt",
    "er",
    "ler",
    "ner",
    "mann",
    "fer",
    "ert",
    "g",
    "ter",
    "nert",
    "f",
    "der",
    "meier",
    "z",
    "rich",
    "sen",
    "ow",
    "ger",
    "tung",
    "ge",
    "ers",
    "sen",
    "ski",
    "sson",
]
FIRST_NAMES = [
    "Anna",
    "Bernd",
    "Clara",
    "Dieter",
    "Emma",
    "Frank",
    "Gerda",
    "Hans",
    "Ida",
    "Jörg",
    "Karl",
    "Lena",
    "Max",
    "Nora",
    "Otto",
    "Paula",
    "Rolf",
    "Sara",
]


@dataclass(frozen=True)
class Study:
    """A study with its patient; `modalities` are those of its series."""

    number: int
    uid: str
    patient_id: str
    patient_name: str
    birth_date: str
    sex: str
    date: str
    time: str
    accession_number: str
    description: str
    modalities: tuple[str, ...]


def studies(count: int, series: int = 2) -> Iterator[Study]:
    """Make so many studies; two of a patient on average, in an order that has nothing to do with their dates."""
    rng = random.Random(20_241)
    patients = max(1, count // 2)
    for number in range(1, count + 1):
        patient = rng.randrange(patients)
        person = random.Random(patient)
        name = f"{person.choice(BEGINNINGS)}{person.choice(ENDINGS)}{patient % 97 or ''}^{person.choice(FIRST_NAMES)}"
        modality = rng.choices([*MODALITIES], weights=[*MODALITIES.values()])[0]
        yield Study(
            number=number,
            uid=f"{ROOT}.{number}",
            patient_id=f"P{patient:07d}",
            patient_name=name,
            birth_date=f"{date(1930, 1, 1) + timedelta(days=person.randrange(30_000)):%Y%m%d}",
            sex=person.choice("MFO"),
            date=f"{FIRST_DAY + timedelta(days=rng.randrange(DAYS)):%Y%m%d}",
            time=f"{rng.randrange(24):02d}{rng.randrange(60):02d}{rng.randrange(60):02d}",
            accession_number=f"A{number:08d}",
            description=f"{modality} {rng.choice(DESCRIPTIONS)}",
            modalities=(modality, *["SR" if rng.random() < 0.1 else modality] * (series - 1)),
        )


def fill(url: str, count: int, instances: int, series: int = 2) -> None:
    """Fill an empty database."""
    from sqlalchemy import insert

    from imaging_ai.db import migrate, tables
    from imaging_ai.db.engine import Database

    database = Database(url)
    migrate.upgrade(database)
    rows: dict[str, list[dict[str, Any]]] = {"study": [], "series": [], "instance": []}
    with database.engine.begin() as connection:
        for study in studies(count, series):
            _add(rows, study, instances, series)
            if len(rows["study"]) == 1_000 or study.number == count:
                for name, table in rows.items():
                    connection.execute(insert(tables.StudyRow.metadata.tables[name]), table)
                    table.clear()
    if not database.is_sqlite:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
            connection.exec_driver_sql(
                "SELECT setval('study_id_seq', (SELECT max(id) FROM study)), "
                "setval('series_id_seq', (SELECT max(id) FROM series)), "
                "setval('instance_id_seq', (SELECT max(id) FROM instance))"
            )
    database.dispose()


def _add(rows: dict[str, list[dict[str, Any]]], study: Study, instances: int, series: int) -> None:
    from imaging_ai.core.names import name_key
    from imaging_ai.core.order import day_key

    sort_key, now = day_key(study.date) + study.number, 1_700_000_000.0 + study.number
    rows["study"].append(
        {
            "id": study.number,
            "study_instance_uid": study.uid,
            "patient_id": study.patient_id,
            "patient_name": study.patient_name,
            "patient_name_key": name_key(study.patient_name),
            "patient_birth_date": study.birth_date,
            "patient_sex": study.sex,
            "study_date": study.date,
            "study_time": study.time,
            "accession_number": study.accession_number,
            "study_id": str(study.number % 1_000),
            "study_description": study.description,
            "referring_physician_name": "Doe^Jane",
            "referring_physician_name_key": name_key("Doe^Jane"),
            "sort_key": sort_key,
            "created_at": now,
            "updated_at": now,
        }
    )
    for place, modality in enumerate(study.modalities):
        series_id = (study.number - 1) * series + place + 1
        count = instances // series + (place < instances % series)
        rows["series"].append(
            {
                "id": series_id,
                "study_id": study.number,
                "study_sort_key": sort_key,
                "series_instance_uid": f"{study.uid}.{place + 1}",
                "modality": modality,
                "series_number": place + 1,
                "series_description": f"{modality} {place + 1}",
                "body_part_examined": study.description.split()[1].upper(),
                "manufacturer": "Bench",
                "instance_count": count,
                "state": "SETTLED",
                "settle_at": now,
                "last_received_at": now,
                "created_at": now,
            }
        )
        for number in range(1, count + 1):
            rows["instance"].append(
                {
                    "sop_instance_uid": f"{study.uid}.{place + 1}.{number}",
                    "series_id": series_id,
                    "sop_class_uid": SOP_CLASSES.get(modality, OTHER_SOP_CLASS),
                    "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                    "instance_number": number,
                    "rows": 512,
                    "columns": 512,
                    "bits_allocated": 16,
                    "blob_key": f"bench/{study.number}",
                    "blob_offset": number << 20,
                    "blob_length": 1 << 20,
                    "received_at": now,
                }
            )


def write(folder: Path, count: int, instances: int, series: int = 2) -> None:
    """Write the same studies as DICOM files of a few hundred bytes."""
    from pydicom import Dataset, FileMetaDataset

    for study in studies(count, series):
        below = folder / f"{study.number // 1000:03d}"
        below.mkdir(parents=True, exist_ok=True)
        for place, modality in enumerate(study.modalities):
            for number in range(1, instances // series + (place < instances % series) + 1):
                ds = Dataset()
                ds.SpecificCharacterSet = "ISO_IR 192"
                ds.SOPClassUID = SOP_CLASSES.get(modality, OTHER_SOP_CLASS)
                ds.SOPInstanceUID = f"{study.uid}.{place + 1}.{number}"
                ds.StudyDate, ds.StudyTime, ds.AccessionNumber = study.date, study.time, study.accession_number
                ds.Modality, ds.Manufacturer, ds.ReferringPhysicianName = modality, "Bench", "Doe^Jane"
                ds.StudyDescription, ds.SeriesDescription = study.description, f"{modality} {place + 1}"
                ds.PatientName, ds.PatientID = study.patient_name, study.patient_id
                ds.PatientBirthDate, ds.PatientSex = study.birth_date, study.sex
                ds.StudyInstanceUID, ds.SeriesInstanceUID = study.uid, f"{study.uid}.{place + 1}"
                ds.StudyID, ds.SeriesNumber, ds.InstanceNumber = str(study.number % 1_000), place + 1, number
                ds.file_meta = FileMetaDataset()
                ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
                ds.save_as(below / f"{study.number}-{place + 1}-{number}.dcm", enforce_file_format=True)


def main() -> None:
    """Read the arguments and make the data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", help="an empty database: sqlite:///… or postgresql://…")
    parser.add_argument("--studies", type=int, default=20_000)
    parser.add_argument("--instances", type=int, default=10, help="of each study")
    parser.add_argument("--series", type=int, default=2, help="of each study")
    parser.add_argument("--dicom", type=Path, help="write DICOM files into this folder")
    arguments = parser.parse_args()
    if arguments.dicom:
        write(arguments.dicom, arguments.studies, arguments.instances, arguments.series)
    elif arguments.url:
        fill(arguments.url, arguments.studies, arguments.instances, arguments.series)
    else:
        parser.error("a database or --dicom is needed")


if __name__ == "__main__":
    main()
