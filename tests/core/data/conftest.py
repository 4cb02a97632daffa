"""Shows, after the tests, what became of every DICOM file with pixels that pydicom ships."""

PROPERTY = "dicom file"


def pytest_terminal_summary(terminalreporter):
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    lines = sorted(value for report in reports for name, value in report.user_properties if name == PROPERTY)
    if lines:
        terminalreporter.section("DICOM files of pydicom: transfer syntax, modality, photometric, frames, result")
        for line in lines:
            terminalreporter.write_line(line)
