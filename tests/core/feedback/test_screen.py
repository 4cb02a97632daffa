"""Free text that identifies a patient is refused, and ordinary medical text is not."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import FeedbackError
from core.feedback.screen import MOST_CHARACTERS, MOST_CORRECTED, screened

IDENTIFYING = [
    ("a date", "Seen on 12.03.1958."),
    ("a date", "12. 3. 1958"),
    ("a date", "3/12/1958"),
    ("a date", "12/31/2019 chest"),
    ("a date", "1958-03-12T08:00"),
    ("a date", "1958/3/12"),
    ("a date", "CT vom 12.03.58"),
    ("a date", "admitted 12-03-58, discharged"),
    ("a date", "on 12 March 1958"),
    ("a date", "the 12th of March, 1958"),
    ("a date", "March 12, 1958"),
    ("a date", "Sept. 3rd 2021"),
    ("a date", "12. März 1958"),
    ("a date", "am 3. Mai 2021"),
    ("a date", "3. Dez. 1999"),
    ("a date", "12-Mar-1958"),
    ("a date", "1958 March 12"),
    ("a date", "１２.０３.１９５８"),
    ("a date", "12.\u200b03.1958"),
    ("an e-mail address", "ask jane.doe+x@clinic.example.org"),
    ("a phone number", "+49 221 478 1234"),
    ("a phone number", "0049 (221) 478-12"),
    ("a phone number", "0221 478-1234"),
    ("a phone number", "(0221) 4781 234"),
    ("a phone number", "0171/234 56 78"),
    ("a phone number", "(555) 123-4567"),
    ("a phone number", "555-123-4567"),
    ("a phone number", "020 7946 0958"),
    ("a phone number", "01 23 45 67 89"),
    ("a phone number", "Tel. 478 12 34"),
    ("a phone number", "call 555 1234"),
    ("a number of six or more digits", "case 4711081"),
    ("a number of six or more digits", "A123456"),
    ("a number of six or more digits", "123456.5"),
    ("a number of six or more digits", "1.2.840.113619.2"),
    ("a number of six or more digits", "123-45-6789"),
    ("a number of six or more digits", "NHS no. 943 476 5919"),
    ("a patient's name or number", "MRN 4711"),
    ("a patient's name or number", "mrn: A-12"),
    ("a patient's name or number", "Patient ID: x12"),
    ("a patient's name or number", "patient name: doe"),
    ("a patient's name or number", "Patient name John"),
    ("a patient's name or number", "the patient's name is doe"),
    ("a patient's name or number", "Pat.-Nr. 4711"),
    ("a patient's name or number", "Patientenname: Muster"),
    ("a patient's name or number", "Fallnummer 4711"),
    ("a patient's name or number", "medical record number 123"),
    ("a patient's name or number", "accession no: 5"),
    ("a date of birth", "DOB 1958"),
    ("a date of birth", "D.O.B. unknown"),
    ("a date of birth", "geb. 1958"),
    ("a date of birth", "geboren am 3.5."),
    ("a date of birth", "Geburtsdatum fehlt"),
    ("a date of birth", "date of birth"),
]

ORDINARY = [
    "T2-weighted MRI, 3 mm slices, L4/5, 120 kV, 2.5 x 3 cm, HU -1000, 2024",
    "L3/4 and L4/5 stenosis, grade 2/3; C5/6/7 fused, T12.",
    "HU -1000 to 3000; window 400/40; b-values 0, 500, 1000 s/mm2",
    "512 x 512 x 1024 voxels, 0.123456 mm, 3,141592, TR/TE 2000/30/5",
    "A 63-year-old man with an infarct in 2019 and another in 2021-2022.",
    "Enlarged since 03/2023. Follow-up in 6-12 months, 24/7 monitoring.",
    "100,000 platelets, 1,250,000 cells, 5 to 10 %, p < 0.05, 10^6",
    "newborn, stubborn, geborsten, dobutamine, may 3 mm be enough?",
    "MRN of the brachial plexus. Is the patient identified? Patient number of scans unknown.",
    "Nodule 12-10-8 mm, ratio 1:2:3, version 1.2.3, 1.2.10.5",
    "Call it benign. In case no lesion is seen, mark 5 arch levels. 12 decimals. 3 mars",
    "Zeige die Leber in portalvenöser Phase, Schichtdicke 1,25 mm, seit 1998 bekannt.",
    "On day 5 of 12, dec 10 mm. Augmented 3 times.",
    "右肺に結節がある。5 mm。",
    "",
]


@pytest.mark.parametrize(("kind", "text"), IDENTIFYING)
def test_what_identifies_is_refused_by_kind_and_not_repeated(kind: str, text: str) -> None:
    for around in (text, f"Please look. {text}", f"{text}\nThank you."):
        with pytest.raises(FeedbackError) as refused:
            screened(around)
        assert kind in refused.value.what
        assert text == "date of birth" or text not in str(refused.value)
        assert refused.value.value is None and "Remove it" in refused.value.remedy


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_passes_unchanged(text: str) -> None:
    assert screened(text) == text


def test_a_long_text_is_refused() -> None:
    assert screened("a" * MOST_CHARACTERS)
    with pytest.raises(FeedbackError, match=r"2001.*2000"):
        screened("a" * (MOST_CHARACTERS + 1))


def test_several_kinds_are_named_at_once() -> None:
    with pytest.raises(FeedbackError, match="a date and an e-mail address"):
        screened("12.03.1958, a@b.de")


SMALL = st.integers(0, 99)
FINDINGS = st.one_of(
    SMALL.map("{} mm".format),
    st.integers(-1024, 3071).map("{} HU".format),
    st.integers(1900, 2099).map("in {}".format),
    st.integers(40, 140).map("{} kV".format),
    st.tuples(st.sampled_from("CTLS"), st.integers(1, 12)).map(lambda v: f"{v[0]}{v[1]}/{v[1] + 1}"),
    st.tuples(SMALL, SMALL).map(lambda v: f"{v[0]}.{v[1]} x {v[1]} cm"),
    st.tuples(SMALL, SMALL, SMALL).map(lambda v: f"{v[0]} x {v[1]} x {v[2]} mm"),
    st.floats(0, 99, allow_nan=False).map(lambda v: f"{v:.6f} ml"),
    st.floats(0, 1).map(lambda v: f"p = {v:.3g}"),
    st.tuples(SMALL, SMALL).map(lambda v: f"{v[0]}-{v[1]} weeks"),
    SMALL.map("grade {}".format),
    SMALL.map("{} %".format),
    st.integers(0, 99999).map("{} cells".format),
    st.sampled_from(["T2-weighted MRI", "hepatic lesion", "no effusion", "Kontrastmittel", "sagittal", "may enlarge"]),
)


@given(st.lists(FINDINGS, max_size=12), st.sampled_from([", ", "; ", " and ", ".\n", " "]))
def test_findings_pass(findings: list[str], between: str) -> None:
    text = between.join(findings)
    assert screened(text) == text


@given(
    st.dates(date(1880, 1, 1), date(2059, 12, 31)),
    st.sampled_from(["%d.%m.%Y", "%Y-%m-%d", "%m/%d/%Y", "%d/%m/%Y", "%d %B %Y", "%B %d, %Y", "%d-%b-%Y", "%d.%m.%y"]),
    st.lists(FINDINGS, max_size=4),
)
def test_every_date_is_found_among_findings(day: date, form: str, findings: list[str]) -> None:
    with pytest.raises(FeedbackError, match="a date"):
        screened(", ".join([*findings, f"seen {day.strftime(form)}", *findings]))


@given(st.text(max_size=300))
def test_any_text_is_either_kept_or_refused(text: str) -> None:
    try:
        kept = screened(text)
    except FeedbackError:
        return
    assert kept == text.replace("\0", "")


def test_a_corrector_may_keep_what_the_model_wrote_and_add_no_more() -> None:
    report = "Compared to 3.4.2019, the effusion is smaller. " + "The lungs are clear. " * 400
    kept = report.replace("smaller", "larger") + "No pneumothorax."
    assert len(kept) > MOST_CHARACTERS and screened(kept, most=MOST_CORRECTED, known=report) == kept
    for new in (
        report.replace("2019", "2021"),
        report + "Seen on 5.4.2019.",
        report.replace("Compared", "MRN: Compared"),
    ):
        with pytest.raises(FeedbackError, match="identify a patient"):
            screened(new, most=MOST_CORRECTED, known=report)
    with pytest.raises(FeedbackError, match="too long"):
        screened("x" * (MOST_CORRECTED + 1), most=MOST_CORRECTED, known=report)
