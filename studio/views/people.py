"""Accounts and roles."""

from __future__ import annotations

import streamlit as st

from core.errors import UniMedError
from core.feedback.people import Person
from core.feedback.studio_models import ROLES
from studio import context


def show(person: Person) -> None:
    store = context.store()
    st.header("People")
    everyone = store.people.everyone(person)
    st.dataframe([{"name": one.login, "role": one.role} for one in everyone], hide_index=True)
    with st.form(f"add-{len(everyone)}", border=True):
        st.subheader("Add somebody")
        login = st.text_input("Name")
        role = st.selectbox("Role", ROLES)
        password = st.text_input("Password", type="password", help="At least ten characters.")
        subject = st.text_input(
            "Or, in place of a password, a subject", help="Of an identity provider, as the login page shows it to them."
        )
        if st.form_submit_button("Add"):
            try:
                store.people.add(person, login.strip(), role, password or None, subject.strip() or None)
                context.done(f"{login.strip()} is added, as {role}.")
            except UniMedError as error:
                context.problem(error)
    with st.form("change", border=True):
        st.subheader("Change somebody")
        names = {one.id: one.login for one in everyone}
        who = st.selectbox("Who", list(names), None, format_func=names.get)
        what = st.selectbox("What", ["new role", "new password", "end the account"])
        role = st.selectbox("Role ", ROLES, help="For a new role.")
        password = st.text_input("Password ", type="password", help="For a new password.")
        if st.form_submit_button("Change") and who is not None:
            try:
                if what == "new role":
                    store.people.change_role(person, who, role)
                elif what == "new password":
                    store.people.change_password(person, who, password)
                else:
                    store.people.disable(person, who)
                context.done(f"{names[who]}: {what}.")
            except UniMedError as error:
                context.problem(error)
