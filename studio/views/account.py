"""One's own password."""

from __future__ import annotations

import streamlit as st

from core.feedback.people import SHORTEST_PASSWORD
from studio import context

CHANGED = "changed"


def show() -> None:
    st.header("My account")
    if CHANGED in st.query_params:
        st.success("Your password is changed. Other browsers in which you were logged in are logged out.")
    st.write(f"A new password has at least {SHORTEST_PASSWORD} characters. Change one that somebody else gave you.")
    context.password(f"/account?{CHANGED}")
