"""Readers of facts: the answers they take, and the texts they leave out."""

import pytest

from atlas_jax.apps.demo import facts


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
    person = facts.parse_person(text)
    assert person == facts.Person(title, name, surname)
    assert person.answers[0] == name and set(person.answers) == {name, surname, f'{title} {name}'}
    assert facts.parse_person(person.answers[-1]) == person


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
    assert facts.parse_person(text) is None


FACTS = {fact.name: fact for fact in facts.FACTS}


def test_facts_are_distinct_and_their_questions_take_a_country():
    assert len(FACTS) == len(facts.FACTS) >= 21
    for fact in facts.FACTS:
        assert len(set(fact.questions)) == len(fact.questions) == 2
        for question in fact.questions:
            filled = question.format(country='the Bahamas', possessive="the Bahamas'")
            assert 'the Bahamas' in filled and filled[-1] in '?.'


@pytest.mark.parametrize('fact, text, answers', [
    ('capital', 'Vienna', ['Vienna']), ('capital', 'Washington, D.C.', ['Washington, D.C.']), ('capital', 'Suva (on Viti Levu)', ['Suva']),
    ('capital', 'Porto-Novo (constitutional capital); Cotonou (seat of government)', []), ('capital', 'no official capital', []),
    ('capital', 'Gitega (political capital), Bujumbura (commercial capital)', []),
    ('capital', 'Chisinau in Romanian (Kishinev in Russian)', []),
    ('government type', 'parliamentary republic; a Commonwealth realm', ['parliamentary republic']),
    ('government type', 'in transition', []),
    ('government type', 'presidential republic in name, although in fact a dictatorship', []),
    ('adjective', 'French', ['French']), ('adjective', 'Congolese or Congo', ['Congolese', 'Congo']), ('adjective', 'NA', []),
    ('adjective', 'Motswana (singular), Batswana (plural)', []), ('internet code', '.fr', ['.fr']), ('internet code', '.fr; .gf', []),
    ('anthem', '"Het Wilhelmus" (The William)', ['Het Wilhelmus', 'The William']), ('anthem', '“Patria Amada”', ['Patria Amada']),
    ('anthem', '"National Anthem of Mauritania"', []), ('anthem', 'the anthem has four names: "a" "b"', []),
    ('highest point', 'Mont Blanc 4,810', ['Mont Blanc']), ('highest point', 'Kinabalu (in the north) 4,095 m', ['Kinabalu']),
    ('highest point', 'Mount Alvernia on Cat Island 63 m', ['Mount Alvernia', 'Mount Alvernia on Cat Island']),
    ('highest point', 'unnamed elevation 63 m', []), ('lowest point', 'Dead Sea -431 m', ['Dead Sea']),
    ('lowest point', 'Norwegian/Greenland Seas 0 m', []), ('independence', '1 August 1960 (from France)', ['1 August 1960']),
    ('independence', '24 September 1973 (declared); 10 September 1974 (from Portugal)', []), ('independence', 'none', []),
    ('national holiday', 'Independence Day, 5 July (1962)', ['5 July']), ('national holiday', 'Bermuda Day, 24 May', ['24 May']),
    ('national holiday', 'Naadam (games) holiday, 11-15 July; Constitution Day, 26 November (1924)', []),
    ('currency', 'euros (EUR) per US dollar -', ['euros', 'euro']), ('currency', 'colones (CRC) per US dollar', ['colones', 'colon']),
    ('currency', 'the US dollar is used', []), ('currency', 'Tuvaluan dollars or Australian dollars (TVD) per US dollar', []),
    ('export partner', 'USA 40%, China 5%', ['USA', 'US', 'United States']), ('export partner', 'Brazil 15%, India 15%', []),
    ('export partner', 'n/a', []), ('language', 'French (official) 100%', ['French']), ('language', 'Thai 90.7% (official)', ['Thai']),
    ('language', 'Arabic (official), French (official)', []), ('language', 'Italian', []),
    ('religion', 'Muslim (official; Sunni (85%)) 96%, other 4%', ['Muslim']), ('religion', 'Christian 20%, Muslim 30%', []),
    ('religion', 'none 60%, Buddhist 20%', []), ('religion', 'Catholic, Muslim', []), ('coastline', '4,853 km', ['4,853 km']),
    ('coastline', '0 km (landlocked)', []), ('area', '643,801 sq km', ['643,801 sq km', '643,801']),
    ('median age', '42.7 years (2025 est.)', ['42.7 years', '42.7']), ('legislature', 'Diet (Landtag)', ['Diet', 'Landtag']),
    ('legislature', 'Legislative Council or LegCo', []), ('national symbol', 'a golden eagle, lion (bold)', ['golden eagle', 'lion']),
    ('national symbol', 'eagle; national colors: blue', ['eagle']), ('national symbol', 'six, five-pointed, white stars', [])])
def test_readers(fact, text, answers):
    assert list(FACTS[fact].read(text, text)) == answers


def test_a_ranking_counts_only_where_the_field_says_so():
    read = FACTS['top export'].read
    assert read('gold, fish (2023)', 'gold, fish (2023); note: top five export commodities based on value in dollars') == ['gold']
    assert read('gold, fish', 'gold, fish') == []
