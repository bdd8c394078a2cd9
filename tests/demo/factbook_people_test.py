import pytest

from atlas_jax.demo import factbook_people


@pytest.mark.parametrize('text, title, name, surname', [
    ('President Emmanuel MACRON (since 14 May 2017)', 'President', 'Emmanuel MACRON', 'MACRON'),
    ('Ambassador Laurent BILI (since 19 April 2023); note - also accredited to Monaco', 'Ambassador', 'Laurent BILI', 'BILI'),
    ("Ambassador (vacant); Chargé d'Affaires H. Martin McDOWELL (since May 2025)", "Chargé d'Affaires", 'H. Martin McDOWELL', 'McDOWELL'),
    ("Ambassador (vacant) Chargé d'Affaires Marc WEINSTOCK (since August 2025)", "Chargé d'Affaires", 'Marc WEINSTOCK', 'WEINSTOCK'),
    ('King CHARLES III (since 8 September 2022); represented by Governor General Mary SIMON', 'King', 'CHARLES III', 'CHARLES III'),
    ('President Surangel WHIPPS, Jr. (since 21 January 2021)', 'President', 'Surangel WHIPPS Jr.', 'WHIPPS'),
    ('Sultan and Prime Minister HAITHAM bin Tarik Al Said (since 11 January 2020)', 'Sultan and Prime Minister',
     'HAITHAM bin Tarik Al Said', 'HAITHAM'),
    ('President XI Jinping (since 14 March 2013)', 'President', 'XI Jinping', 'XI'),
    ('Prime Minister Jose Ulisses CORREIA e SILVA (since 22 April 2016)', 'Prime Minister', 'Jose Ulisses CORREIA e SILVA',
     'CORREIA e SILVA'),
    ('Ambassador Jovita NELIUPŠIENĖ (since 2024)', 'Ambassador', 'Jovita NELIUPŠIENĖ', 'NELIUPŠIENĖ')])
def test_one_holder(text, title, name, surname):
    person = factbook_people.parse(text)
    assert person == factbook_people.Person(title, name, surname)
    assert person.answers[0] == name and set(person.answers) == {name, surname, f'{title} {name}'}
    assert factbook_people.parse(person.answers[-1]) == person


@pytest.mark.parametrize('text', [
    'President (vacant)', 'Ambassador (vacant)', '', 'none', 'limited',
    'co-chiefs of state Captains Regent Matteo ROSSI and Lorenzo BUGLI (for the period 1 October 2025)',
    'Chairperson of the Presidency Zeljko KOMSIC (since 16 July 2025)',
    "Ambassador-designate Leo Brent BOZELL III; Chargé d'Affaires Marc DILLARD (since October 2025)",
    "Ambassador Henry V. JARDINE (since 2023) and Chargé d'Affaires Adham LOUTFI (since 2025)",
    'the US does not have an embassy in Taiwan; commercial relations are maintained',
    'Prime Minister SONEXAY (also spelled SONXAI) Siphandon (since 30 December 2022)',
    'Prime Minister Manuel Osa Nsue Nsua (since 17 August 2024)', "Supreme People's Assembly President CHOE Ryong Hae (since 2019)",
    'Ambassadors Jovita SMITH (since 2024)', 'Emmanuel MACRON (since 2017)'])
def test_vacant_shared_or_doubtful_offices_are_left_out(text):
    assert factbook_people.parse(text) is None
