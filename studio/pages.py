"""The pages that Streamlit shows, by role. Run by ``studio.app``."""

from __future__ import annotations

import streamlit as st

from studio import context
from studio.views import account, people, progress, projects, rate, rights, snapshots, versions

NOTICE = "Outputs are AI-generated unless they were imported: for research, not for diagnosis."
# Less of the page is margin: pictures need the room. Streamlit's captions are too pale to be read by everybody.
STYLE = """<style>
[data-testid="stMainBlockContainer"] { padding: 4rem clamp(1rem, 4vw, 5rem) 2rem; }
div[data-testid="stCaptionContainer"] { color: inherit; opacity: 0.75; }
</style>"""


def main() -> None:
    st.set_page_config(page_title="UniMed Studio", page_icon="🩻", layout="wide")
    st.html(STYLE)
    person = context.person()
    if person is None:
        st.title("UniMed Studio")
        st.write("Rate and correct what the model reads and draws. For research, not for diagnosis.")
        if not context.store().people.any():
            st.info("There is no account yet. Make the first one where the studio runs: "
                    "`python -m core feedback user NAME --role maintainer`")  # fmt: skip
        context.enter()
        return
    pages = [st.Page(lambda: rate.show(person, "judge"), title="Rate", url_path="rate", default=True)]
    if person.role != "rater":
        pages.append(st.Page(lambda: rate.show(person, "adjudicate"), title="Adjudicate", url_path="adjudicate"))
    if person.role == "maintainer":
        pages.append(st.Page(lambda: projects.show(person), title="Projects", url_path="projects"))
        pages.append(st.Page(lambda: progress.show(person), title="Progress", url_path="progress"))
        pages.append(st.Page(lambda: snapshots.show(person), title="Snapshots", url_path="snapshots"))
        pages.append(st.Page(lambda: versions.show(person), title="Versions", url_path="versions"))
        pages.append(st.Page(lambda: people.show(person), title="People", url_path="people"))
        pages.append(st.Page(lambda: rights.show(person), title="Rights and log", url_path="rights"))
    if context.store().people.has_password(person):
        pages.append(st.Page(account.show, title="My account", url_path="account"))
    pages.append(st.Page(context.leave, title="Log out", url_path="leave"))
    chosen = st.navigation(pages, position="top")
    context.say_done()
    chosen.run()
    st.caption(f"{person.login}, {person.role}. {NOTICE}")


main()
